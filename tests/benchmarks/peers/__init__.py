"""What zapex is measured against.

The scripts here run in the peers' own Pythons, which need not have our dependencies: beside their
peer they need numpy alone, and parse their options with argparse. Each prints one JSON object per
line on stdout. A script whose package is absent, or does not load, says so and exits with `ABSENT`.
`bare_zmq` is no product but a bound, and runs in ours.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

ABSENT = 69
"""Exit status of a script whose peer cannot be imported (EX_UNAVAILABLE of sysexits.h)."""


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


class Unavailable(Exception):
    """A peer that cannot be imported; says why."""


_BROKEN = "does not load"


def unavailable(error: ImportError, *packages: str) -> NoReturn:
    """Ends the script of a peer that is made of these packages and cannot be imported here."""
    if isinstance(error, ModuleNotFoundError) and error.name in packages:
        print(f"{error.name} is not installed", flush=True)
    else:
        # Directories are this machine's own.
        said = re.sub(r"\S*/", "", " ".join(str(error).split()))
        print(f"{_BROKEN}: {said}", flush=True)
    sys.exit(ABSENT)


class Peers:
    """The Pythons in which peers may be installed; none: peers are left out.

    A script runs in the first of them that has what it needs. One that no Python has is said once,
    on stderr, and not tried again.
    """

    def __init__(self, pythons: Sequence[str]) -> None:
        self._pythons = list(pythons)
        self.missing: dict[str, str] = {}
        """Peers that no Python could import, and why; whatever else is not measured."""
        self.failed: list[str] = []
        """What was left out because its process failed."""

    @property
    def wanted(self) -> bool:
        """Whether peers are to be measured at all."""
        return bool(self._pythons)

    def pythons(self, peer: str) -> list[str]:
        """Where to look for a peer."""
        return [] if peer in self.missing else self._pythons

    def miss(self, peer: str, reasons: Sequence[str]) -> None:
        """No Python can import it. `reasons`: what each of them said; one where it is installed but
        does not load is the one to know."""
        if not reasons:
            return
        why = next((reason for reason in reasons if reason.startswith(_BROKEN)), reasons[0])
        self.missing[peer] = why
        if why.startswith(_BROKEN):
            print(f"skipped: {peer} {why}", file=sys.stderr)
        else:
            print(
                f"skipped: {peer} is installed for none of {', '.join(self._pythons)}: pip install "
                "-e '.[peers]' (Reverb and torchrl: on their own, in an environment that suits "
                "them), or name another Python with --peer-python",
                file=sys.stderr,
            )

    def fail(self, name: str, why: str) -> None:
        """A process failed, and the others are measured without it."""
        self.failed.append(name)
        self.missing[name] = "failed"
        print(f"failed, and left out: {name}: {why}", file=sys.stderr)

    def forget_missing(self) -> None:
        """Look for all of them again."""
        self.missing = {}

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
        reasons: list[str] = []
        for python in self.pythons(script):
            command = [python, "-m", f"tests.benchmarks.peers.{script}", *options]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode == 0:
                lines = done.stdout.splitlines()
                return [json.loads(line) for line in lines if line.startswith("{")]
            if done.returncode != ABSENT:
                raise PeerError(f"exit status {done.returncode} from: {' '.join(command)}")
            reasons += done.stdout.splitlines()[-1:]
        self.miss(script, reasons)
        return None
