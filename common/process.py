"""How every zapex process starts and ends: logging, signals, one line for an error.

A process that another one started ends with it: when the parent is gone, however it went, the
child is asked to stop and, if it does not, ended.
"""

import contextlib
import logging
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path

from common.errors import ZapexError

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
STOP_LIMIT_S = 5.0
"""How long a process may take to stop once its parent is gone."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
UNEXPECTED = 70
"""Exit code for a bug (EX_SOFTWARE of sysexits.h)."""

log = logging.getLogger(__name__)


def machine_id() -> str:
    """The same for all processes, in containers or not, that run on one kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def process_start_s() -> float:
    """When this process began, as time.time(), to a hundredth of a second.

    Where the system does not tell (it does on Linux), the time of the call.
    """
    try:
        # Field 22 of proc(5)'s stat: clock ticks after boot. The command's name, which may hold
        # anything, ends at the last parenthesis.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        age_s = 0.0
    return time.time() - age_s


def configure_logging(level: str, file: Path | None = None) -> None:
    """Log to `file`, or to standard error."""
    handler = logging.FileHandler(file) if file else logging.StreamHandler()
    logging.basicConfig(level=level.upper(), format=LOG_FORMAT, handlers=[handler], force=True)
    logging.captureWarnings(True)


def stop_on_signals(stop: threading.Event) -> None:
    """SIGINT and SIGTERM ask for a clean stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())


@contextlib.contextmanager
def handling_signals(handle: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `handle`, as long as this lasts."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: handle()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_with_parent(sentinel: int, stop: threading.Event) -> None:
    """Watch, in the background, for the end of the parent process.

    Args:
        sentinel: `multiprocessing.parent_process().sentinel`.
    """

    what = "the process that started this one is gone"
    _stop_after(lambda: wait([sentinel]), what, stop.set, STOP_LIMIT_S)


def stop_at_end_of_input(stop: Callable[[], None], limit_s: float = STOP_LIMIT_S) -> None:
    """Watch, in the background, for the end of standard input, and call `stop` then.

    Whoever started this process holds the other end: a process on this host, or on another one by
    way of ssh. However that one or the connection goes, the system tells.
    """

    def wait_for_end() -> None:
        with contextlib.suppress(OSError):
            while os.read(sys.stdin.fileno(), 4096):
                pass

    _stop_after(wait_for_end, "standard input has ended", stop, limit_s)


def _stop_after(
    wait_for_it: Callable[[], object],
    what: str,
    stop: Callable[[], None],
    limit_s: float,
) -> None:
    def watch() -> None:
        wait_for_it()
        log.warning("%s: stopping", what)
        stop()
        threading.Event().wait(limit_s)
        log.error("did not stop within %.0f s: ending the process", limit_s)
        os._exit(UNEXPECTED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def run_main(main: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run a program; its exit code. An expected error becomes one line on standard error."""
    try:
        return main() or 0
    except ZapexError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        return UNEXPECTED
