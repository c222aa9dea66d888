"""What zapex is measured against.

The scripts here (`sb3_dqn`, `ray_cpprb`) run in the peers' own Python, which need not have our
dependencies: beside their peer they need numpy alone, and parse their options with argparse. Each
prints one JSON object per line on stdout. A script whose package is absent says so in one line on
stderr and exits with `ABSENT`. `bare_zmq` is no product but a bound, and runs in ours.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

ABSENT = 69
"""Exit status of a script whose peer is not installed (EX_UNAVAILABLE of sysexits.h)."""


class PeerError(Exception):
    """A peer is installed but its script ended with an error."""


def absent(package: str) -> NoReturn:
    """Ends a peer's script because `package` cannot be imported here."""
    print(
        f"skipped: {package} is not installed for {sys.executable}: "
        "pip install -e '.[peers]', or name another Python with --peer-python",
        file=sys.stderr,
    )
    sys.exit(ABSENT)


def run_script(python: str, name: str, options: Sequence[str]) -> list[dict[str, Any]] | None:
    """Runs `tests.benchmarks.peers.<name>` under `python` and returns the objects it printed, or
    None if the peer is not installed there."""
    command = [python, "-m", f"tests.benchmarks.peers.{name}", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == ABSENT:
        return None
    if done.returncode != 0:
        raise PeerError(f"exit status {done.returncode} from: {' '.join(command)}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
