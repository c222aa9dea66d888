"""`RUN_DIR/head` and `RUN_DIR/status.json`: where a run can be asked how it goes, and what it would
have answered last.

`head` is one line, the head's address, there while the run goes on: whoever sees the run directory
can ask (`python -m deploy status $(cat RUN_DIR/head)`). A run that was killed leaves it behind.
`status.json` outlives the run, for those who come later.
"""

import contextlib
import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from common import transport
from common.run_directory import replace_text
from learner.status import RunStatus

HEAD_FILE = "head"
STATUS_FILE = "status.json"
STATUS_PERIOD_S = 10.0

log = logging.getLogger(__name__)


class Announcement:
    """Says where the head is until `withdraw`; `tell` what it would answer."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._next_s = 0.0
        self._had_actors = False
        self._stands = False

    def announce(self, endpoint: str) -> None:
        """The head listens there. An address within this process says nothing to others."""
        if not endpoint.startswith("inproc://"):
            address = transport.reachable(endpoint, f"tcp://{socket.gethostname()}")
            _replace(self._run_dir / HEAD_FILE, address + "\n")

    def tell(self, now_s: float, status: Callable[[], RunStatus], *, due: bool = False) -> None:
        """Write the status, every `STATUS_PERIOD_S` or, if `due`, at once. `now_s` is monotonic.

        One that knows of no actor does not take the place of one that did: at the end they leave.
        Nothing is written before the learner stands: a resumed run may yet be refused.
        """
        if not (due or now_s >= self._next_s):
            return
        plain = status().to_plain()
        self._stands |= plain["learner"]["phase"] not in ("starting", "failed")
        if not self._stands:
            return
        self._next_s = now_s + STATUS_PERIOD_S
        has_actors = any(member["role"] == "actor" for member in plain["members"])
        if has_actors or not self._had_actors:
            self._had_actors = has_actors
            _replace(self._run_dir / STATUS_FILE, json.dumps(plain) + "\n")

    def withdraw(self) -> None:
        """The head is about to go."""
        # A directory that is read-only by now, or gone, must not keep the head from ending.
        with contextlib.suppress(OSError):
            (self._run_dir / HEAD_FILE).unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    """A disk that is full must not end the run."""
    try:
        replace_text(path, text)
    except OSError as error:
        log.warning("cannot write %s: %s", path, error.strerror)
