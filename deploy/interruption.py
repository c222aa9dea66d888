"""Signals that ask a run to stop, and what the second of them means."""

import threading
import time
from collections.abc import Callable

SAME_S = 1.0
"""Signals within so long are one wish: `timeout` and other wrappers pass on what the whole process
group gets anyway."""


class Interruption:
    """Whoever runs a launch wants it to stop; a later signal wants it without delay.

    Args:
        stop: set by the first signal.
    """

    def __init__(self, stop: threading.Event, now_s: Callable[[], float] = time.monotonic) -> None:
        self.stop, self._now_s = stop, now_s
        self._first_s: float | None = None
        self._hurried = False

    def heed(self) -> None:
        """Take a signal in."""
        now_s = self._now_s()
        if self._first_s is None:
            self._first_s = now_s
        elif now_s - self._first_s >= SAME_S:
            self._hurried = True
        self.stop.set()

    def came(self) -> bool:
        return self._first_s is not None

    def hurried(self) -> bool:
        """Whether nothing is waited for any more."""
        return self._hurried
