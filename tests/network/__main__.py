"""`python -m tests.network`: each fault's effect on a run, as a table for docs/reliability.md.

    python -m tests.network --fault partition --seconds 60

Needs root, iproute2 and iptables. A minute and a half for each fault, unless told otherwise.
"""

import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from common.errors import ConfigError
from common.process import run_main
from tests.network.cluster import Cluster
from tests.network.faults import FAULTS, Finding, measure
from tests.network.lab import Lab, missing

HEADINGS = (
    "fault", "env steps/s before", "during", "after", "others during", "recovery s",
    "memory MB", "behind by updates", "lost", "doubled",
)  # fmt: skip


@dataclass
class Flags:
    """Put a run through faults of its network."""

    fault: tuple[str, ...] = tuple(FAULTS)
    """Which, in turn."""
    seconds: float = 60.0
    """How long each lasts."""
    around: float = 10.0
    """Seconds to look at the run before and after."""


def main() -> int:
    flags = tyro.cli(Flags, prog="python -m tests.network")
    # Whoever ends this by a signal gets a tidy machine back, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run_main(lambda: _run(flags))


def _run(flags: Flags) -> None:
    unknown = [name for name in flags.fault if name not in FAULTS]
    if unknown:
        raise ConfigError(f"--fault {unknown[0]}: there are {', '.join(FAULTS)}")
    reason = missing()
    if reason:
        raise ConfigError(reason)
    print("| " + " | ".join(HEADINGS) + " |")
    print("|---|" + "--:|" * (len(HEADINGS) - 1), flush=True)
    for name in flags.fault:
        fault = FAULTS[name]
        with (
            tempfile.TemporaryDirectory() as directory,
            Lab() as lab,
            Cluster(lab, Path(directory), shape=fault.shape) as cluster,
        ):
            finding = measure(cluster, fault, flags.around, flags.seconds)
        print(_row(f"{name}: {fault.what}, {flags.seconds:g} s", finding), flush=True)


def _row(name: str, finding: Finding) -> str:
    grown = {**finding.grown_mb}
    grown["actor"] = max(finding.grown_mb["near"], finding.grown_mb["far"])
    memory = (f"{name} {grown[name]:+.0f}" for name in ("learner", "replay_server", "actor"))
    cells = (
        name,
        f"{finding.before:.0f}",
        f"{finding.during:.0f}",
        f"{finding.after:.0f}",
        f"{finding.near:.2f}×",
        f"{finding.recovery_s:.1f}",
        ", ".join(memory),
        str(finding.lag),
        str(finding.lost),
        str(finding.doubled),
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
