"""Brings the storage file to the disk every so often, so that a power failure takes little.

A process that dies takes nothing with it: the pages are the system's. The system writes them back
by itself, but promises no time; this is the promise. Blocks that were stored before a flush began
are on the disk when it ends.
"""

import logging
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)


class Flusher:
    """A context manager: while it lasts, a thread of its own waits for the disk.

    Args:
        path: the mapped file; None: there is nothing to flush.
        period_s: from the end of one flush to the beginning of the next, in seconds.
    """

    def __init__(self, path: Path | None, period_s: float) -> None:
        self._path, self._period_s = path, period_s
        self._stop = threading.Event()
        self._since_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)

    @property
    def unflushed_s(self) -> float:
        """How much of the newest experience a power failure would take, in seconds; 0 without a
        file."""
        return 0.0 if self._path is None else time.monotonic() - self._since_s

    def __enter__(self) -> Self:
        if self._path is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends without a last flush: that is the owner's, when nothing is written any more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        assert self._path is not None
        # On Linux this writes what was changed through a mapping, too, and it releases the GIL,
        # which mmap.flush does not before Python 3.13.
        with self._path.open("rb+") as file:
            while not self._stop.wait(self._period_s):
                began_s = time.monotonic()
                try:
                    os.fdatasync(file.fileno())
                except OSError as error:
                    log.error(
                        "%s cannot be written to the disk (%s): a power failure would take the "
                        "experience of the last %.0f s; check the disk",
                        self._path, error.strerror, self.unflushed_s,
                    )  # fmt: skip
                else:
                    self._since_s = began_s


NO_FLUSHER = Flusher(None, 1.0)
