"""`python -m tests.abuse`: all attacks on a run of processes for so many minutes, and what became
of it. Ends with 1 if something did not hold."""

import argparse
import sys
import tempfile
from pathlib import Path

from common.config import Config
from common.descriptors import raise_limit
from tests.abuse.attacks import ATTACKS
from tests.abuse.runs import RUN, in_processes
from tests.abuse.siege import GROWTH_LIMIT_MB, Siege, gaps, ports_of
from tests.integration.runs import status, updates_beyond


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.abuse", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", nargs="*", choices=[attack.__name__ for attack in ATTACKS])
    options = parser.parse_args()
    attacks = [a for a in ATTACKS if not options.only or a.__name__ in options.only]
    raise_limit()
    config = Config(**{**RUN, "replay_capacity": 20_000_000})
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        with in_processes(config, run_dir) as (head, learner):
            ports = ports_of(head, config)
            status(head, updates_beyond(0))
            siege = Siege(learner, ports)
            siege.hold(attacks, 60.0 * options.minutes)
            status(head, updates_beyond(siege.report.updates[-1]))
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
    print("refused:")
    for name, count in sorted(report.rejected.items()):
        print(f"  {name:<60}{count:>14,.0f}")
    print(f"logs, in bytes: {logs}")
    return 1 if missing or max(report.growth_mb.values()) > GROWTH_LIMIT_MB else 0


if __name__ == "__main__":
    sys.exit(main())
