"""An environment that hangs ends its process, in words that say which and where.

A call into an environment cannot be ended from outside; its process can. A thread looks how long
the calls under way have lasted (`common/call_cells.py`). One that is over its time is reported: to
the log with the stacks of all threads, to the head, and to whoever started this process; then the
process ends with `EnvironmentFault.exit_code`, and with it all that it started.

As long as the loop is in a call that is within its time, the same thread says so to the head, for
the loop cannot: a slow environment is not a dead process.

Some C code that hangs never gives up Python's global lock, and then this thread cannot look either.
For that case Python's faulthandler is always set to go off somewhat later: it needs no lock, and
ends the process after it has written the stacks, with exit code 1 and no words. The launcher knows
the rest from the cells. That alarm cannot tell a process that hangs from one that was stopped
(SIGSTOP, a container's pause): one that goes on after a longer stop ends, and is started again.
"""

import faulthandler
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from common.call_cells import DOING, STEP, Call, Cells, call_in, place_in
from common.config import Config
from common.process import end_at_once
from common.watched_vector import Watch, watches

MAX_LOOK_S = 1.0
LOOKS = 10
"""The calls are looked at so often within the shortest deadline, or every MAX_LOOK_S."""
MIN_LOCKED_S = 5.0
"""The lock may be held for twice the deadline, or for so much longer if that is more."""

_Key = tuple[int, float, float]

log = logging.getLogger(__name__)


class Deadlines:
    """Context manager: as long as it lasts, this process ends when one of its environments hangs.

    Where it is entered in another thread than the main one, the process is not the role's own (a
    run in threads, for debugging): a hang is said, once, and nothing ends.

    Args:
        farewell: tells the head that this process ends, and why.
        busy: called with the monotonic clock, every second or more often, while the thread that
            entered this is in a call of its environments that is within its time.
    """

    def __init__(
        self,
        config: Config,
        farewell: Callable[[str], None] = lambda _: None,
        busy: Callable[[float], None] | None = None,
    ) -> None:
        self._limit_s: dict[Call, float | None] = dict.fromkeys(Call, config.env_step_timeout)
        self._limit_s[Call.MAKE] = config.env_make_timeout
        self._farewell = farewell
        self._busy = busy
        limits_s = [limit_s for limit_s in self._limit_s.values() if limit_s is not None]
        self._look_s = min([MAX_LOOK_S, *(limit_s / LOOKS for limit_s in limits_s)])
        self._is_needed = bool(limits_s) or busy is not None
        self._loop = threading.get_ident()
        self._owns_process = threading.current_thread() is threading.main_thread()
        self._lasted_s: dict[_Key, float] = {}
        self._said: set[_Key] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)

    def __enter__(self) -> Self:
        if self._is_needed:
            # The first that is done is to make environments.
            self._set_alarm(Call.MAKE)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        before_s = time.monotonic()
        while not self._over.wait(self._look_s):
            self._set_alarm(Call.MAKE if self._is_making() else Call.STEP)
            now_s = time.monotonic()
            # A process that was stopped (SIGSTOP, a container's pause) has not been hanging.
            is_busy = self._look(min(now_s - before_s, 2 * self._look_s))
            before_s = now_s
            if is_busy and self._busy is not None:
                self._busy(now_s)
        if self._owns_process:
            faulthandler.cancel_dump_traceback_later()

    @staticmethod
    def _is_making() -> bool:
        return any(call_in(cells) is Call.MAKE for watch in watches() for cells in watch.calls())

    def _set_alarm(self, call: Call) -> None:
        """For the case that nobody looks again in time."""
        if not self._owns_process:
            return
        limit_s = self._limit_s[call]
        if limit_s is None:
            faulthandler.cancel_dump_traceback_later()
        else:
            faulthandler.dump_traceback_later(limit_s + max(limit_s, MIN_LOCKED_S), exit=True)

    def _look(self, elapsed_s: float) -> bool:
        """Whether the loop is in a call that is within its time.

        Args:
            elapsed_s: since the last look, as far as this process was running.
        """
        is_busy = False
        lasted_s: dict[_Key, float] = {}
        for watch in watches():
            for cells in watch.calls():
                # No two calls of an environment are the same after the same number of steps.
                key = id(cells), cells[DOING], cells[STEP]
                # Began at some time since the last look.
                lasted_s[key] = self._lasted_s.get(key, -elapsed_s) + elapsed_s
                limit_s = self._limit_s[call_in(cells)]
                if limit_s is not None and lasted_s[key] >= limit_s:
                    self._report(watch, cells, limit_s, key)
                elif watch.thread == self._loop:
                    is_busy = True
        self._lasted_s = lasted_s
        return is_busy

    def _report(self, watch: Watch, cells: Cells, limit_s: float, key: _Key) -> None:
        call = call_in(cells)
        setting = "env_make_timeout" if call is Call.MAKE else "env_step_timeout"
        error = watch.fault(
            f"hangs {call.text}: no return within {setting} = {limit_s:g} s", place_in(cells)
        )
        if not self._owns_process:
            if key not in self._said:
                log.warning("%s", error)
            self._said.add(key)
            return
        log.error("%s; the stacks of all threads:", error)
        faulthandler.dump_traceback(all_threads=True)
        try:
            self._farewell(str(error))
        except Exception:
            log.exception("the head was not told")
        end_at_once(error)
