"""How every zapex process starts and ends: logging, signals, one line for an error.

A process that another one started ends with it: when the parent is gone, however it went, the
child is asked to stop and, if it does not, ended.
"""

import atexit
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
    # Python gives up its handlers before it ends: whoever stops all processes of a run that has
    # just ended would kill those on their way out, and take the signal for how they ended.
    atexit.register(_ignore_signals)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


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

    def watch() -> None:
        wait([sentinel])
        log.warning("the process that started this one is gone: stopping")
        stop.set()
        threading.Event().wait(STOP_LIMIT_S)
        log.error("did not stop within %.0f s: ending the process", STOP_LIMIT_S)
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
