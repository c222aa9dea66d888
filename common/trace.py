"""Where a loop's time goes: the phases of each process's loop, recorded for a short while.

The learner leads: after `SKIPPED` of its updates everyone records until it has made `ITERATIONS`
more. Processes agree through files of one directory, which only those on the launcher's host see;
times are of the monotonic clock, which all processes of a host share. Each loop writes one file;
`deploy/profile.py` makes one picture of them.
"""

import contextlib
import json
import logging
import time
from pathlib import Path

from common.run_directory import replace_text

SKIPPED = 200
"""Learner updates before the recording begins: caches are warm, buffers allocated."""
ITERATIONS = 200
"""Learner updates that are recorded."""
MAX_SPANS = 200_000
"""A loop that turns faster than that stops recording early."""
LOOK_PERIOD_NS = 10_000_000

log = logging.getLogger(__name__)

BEGAN, ENDED = "began", "ended"
"""Files that the learner makes."""


class Trace:
    """A loop tells its phases to this; here they are forgotten, which costs next to nothing."""

    def phase(self, name: str) -> None:
        """What the loop does from now on."""

    def iteration(self) -> None:
        """The learner's loop made an update."""

    def close(self) -> None:
        """The loop ends."""


NO_TRACE = Trace()


class Recording(Trace):
    """Keeps phases and writes them to DIRECTORY/TRACK.json. For one thread.

    Args:
        track: name of the loop, unique within the run.
        leads: whether this loop's iterations decide when everyone records.
    """

    def __init__(self, directory: Path, track: str, *, leads: bool = False) -> None:
        self._directory, self._track, self._leads = directory, track, leads
        self._spans: list[tuple[str, int, int]] = []
        self._phase, self._since_ns = "starting", time.monotonic_ns()
        self._next_look_ns = 0
        self._iterations = 0
        self._records = self._done = False

    def phase(self, name: str) -> None:
        now_ns = time.monotonic_ns()
        if self._records:
            self._spans.append((self._phase, self._since_ns, now_ns))
            if len(self._spans) >= MAX_SPANS:
                self._write()
        self._phase, self._since_ns = name, now_ns
        if not (self._leads or self._done) and now_ns >= self._next_look_ns:
            self._next_look_ns = now_ns + LOOK_PERIOD_NS
            self._look()

    def iteration(self) -> None:
        if not self._leads or self._done:
            return
        self._iterations += 1
        if self._iterations == SKIPPED:
            self._records = True
            self._mark(BEGAN)
        elif self._iterations == SKIPPED + ITERATIONS:
            self._write()

    def close(self) -> None:
        if self._records:
            self._write()

    def _look(self) -> None:
        if not self._records:
            self._records = (self._directory / BEGAN).exists()
        elif (self._directory / ENDED).exists():
            self._write()

    def _write(self) -> None:
        self._records, self._done = False, True
        names = sorted({name for name, _, _ in self._spans})
        number = {name: i for i, name in enumerate(names)}
        text = json.dumps(
            {
                "track": self._track,
                "names": names,
                "spans": [(number[name], begin, end) for name, begin, end in self._spans],
            }
        )
        path = self._directory / f"{self._track}.json"
        self._spans.clear()
        try:
            replace_text(path, text)
        except OSError as error:
            # The loop that is looked at must not end for that.
            log.warning("cannot write %s: %s", path, error.strerror)
        if self._leads:
            self._mark(ENDED)

    def _mark(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._directory / name).touch()


def trace_to(directory: Path | None, track: str, *, leads: bool = False) -> Trace:
    """Into that directory, or nowhere."""
    return NO_TRACE if directory is None else Recording(directory, track, leads=leads)
