"""`python -m tests.abuse`: all attacks on a run of processes for so many minutes, and what became
of it. Ends with 1 if something did not hold.

Without --keys the run has none and everybody is let in. With --keys stranger it has some and the
attackers have none, with --keys insider they have one that is allowed."""

import argparse
import sys
import tempfile
from pathlib import Path

from common.config import Config
from common.descriptors import raise_limit
from common.security import NOTHING_TOLD
from tests.abuse.attacks import ATTACKS
from tests.abuse.knocking import KNOCKING
from tests.abuse.runs import RUN, in_processes, with_keys
from tests.abuse.siege import GROWTH_LIMIT_MB, Siege, gaps, heard, ports_of
from tests.integration.runs import status, updates_beyond

NO_KEYS = NOTHING_TOLD, NOTHING_TOLD


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.abuse", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keys", choices=["none", "stranger", "insider"], default="none")
    every = (*ATTACKS, *KNOCKING)
    parser.add_argument("--only", nargs="*", choices=[attack.__name__ for attack in every])
    options = parser.parse_args()
    every = ATTACKS if options.keys == "none" else every
    attacks = [a for a in every if not options.only or a.__name__ in options.only]
    raise_limit()
    config = Config(**{**RUN, "replay_capacity": 20_000_000})
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        own, insider = with_keys(Path(directory)) if options.keys != "none" else NO_KEYS
        shown = insider.keys if options.keys == "insider" else None
        with in_processes(config, run_dir, own) as (head, learner):
            ports = ports_of(head, config, own, shown)
            status(head, updates_beyond(0), own)
            siege = Siege(learner, ports, own)
            siege.hold(attacks, 60.0 * options.minutes)
            status(head, updates_beyond(siege.report.updates[-1]), own)
            report = siege.after()
        missing = gaps(run_dir / "replay" / "storage", config)
        logs = {p.name: p.stat().st_size for p in sorted((run_dir / "logs").iterdir())}
    print(f"{report.seconds:.0f} s under attack")
    for name, count in report.attempts.items():
        print(f"  {name:<20}{count:>12,} times")
    rate = (report.updates[-1] - report.updates[0]) / report.seconds
    print(f"learner: {rate:.1f} updates/s meanwhile; sessions with inserts missing: {missing}")
    for name, grown in report.growth_mb.items():
        before, after = report.descriptors[name]
        print(f"  {name:<20}grew by {grown:6.1f} MB at most; {before} → {after} descriptors")
    print("refused, messages by reason and handshakes:")
    for name, count in sorted(report.rejected.items()):
        print(f"  {name:<60}{count:>14,.0f}")
    print(f"logs, in bytes: {logs}")
    # Whoever has no key is heard by nobody.
    let_in = options.keys == "stranger" and heard(report)
    return 1 if missing or let_in or max(report.growth_mb.values()) > GROWTH_LIMIT_MB else 0


if __name__ == "__main__":
    sys.exit(main())
