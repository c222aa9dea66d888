"""What zapex is measured against.

The scripts here run in the peers' own Pythons, which need not have our dependencies: beside their
peer they need numpy alone, and parse their options with argparse. Each prints one JSON object per
line on stdout. A script whose package is absent says which and exits with `ABSENT`. `bare_zmq` is
no product but a bound, and runs in ours.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

ABSENT = 69
"""Exit status of a script whose peer is not installed (EX_UNAVAILABLE of sysexits.h)."""


PACKAGES = ("cpprb", "dm-reverb", "ray", "stable-baselines3", "tianshou", "torchrl")
"""What peers are made of."""
_TELL_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class PeerError(Exception):
    """A peer is installed but its script ended with an error."""


def absent(package: str) -> NoReturn:
    """Ends a peer's script because `package` cannot be imported here."""
    print(f"{package} is not installed", flush=True)
    sys.exit(ABSENT)


class Peers:
    """The Pythons in which peers may be installed; none: peers are left out.

    A script runs in the first of them that has what it needs. One that no Python has is said once,
    on stderr, and not tried again.
    """

    def __init__(self, pythons: Sequence[str]) -> None:
        self._pythons = list(pythons)
        self.missing: list[str] = []
        """Names of the peers that no Python had."""

    @property
    def wanted(self) -> bool:
        """Whether peers are to be measured at all."""
        return bool(self._pythons)

    def pythons(self, peer: str) -> list[str]:
        """Where to look for a peer."""
        return [] if peer in self.missing else self._pythons

    def miss(self, peer: str) -> None:
        """No Python has it."""
        if peer not in self.missing and self._pythons:
            self.missing = [*self.missing, peer]
            print(
                f"skipped: {peer} is installed for none of {', '.join(self._pythons)}: pip install "
                "-e '.[peers]' (Reverb and torchrl: on their own, in an environment that suits "
                "them), or name another Python with --peer-python",
                file=sys.stderr,
            )

    def forget_missing(self) -> None:
        """Look for all of them again."""
        self.missing = []

    def versions(self) -> dict[str, str]:
        """Of the peers' packages, wherever they are installed."""
        found: dict[str, str] = {}
        for python in self._pythons:
            command = [python, "-c", _TELL_VERSIONS, *PACKAGES]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout) | found
        return found

    def run(self, script: str, options: Sequence[str]) -> list[dict[str, Any]] | None:
        """The objects that `tests.benchmarks.peers.<script>` printed; None where it is missing.

        Raises PeerError when it fails.
        """
        for python in self.pythons(script):
            command = [python, "-m", f"tests.benchmarks.peers.{script}", *options]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode == 0:
                lines = done.stdout.splitlines()
                return [json.loads(line) for line in lines if line.startswith("{")]
            if done.returncode != ABSENT:
                raise PeerError(f"exit status {done.returncode} from: {' '.join(command)}")
        self.miss(script)
        return None
