"""How every zapex process starts and ends: logging, signals, one line for an error.

A process that another one started ends with it: when the parent is gone, however it went, the
child is asked to stop and, if it does not, ended.
"""

import atexit
import contextlib
import errno
import io
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
from typing import Any, NoReturn, TextIO

import psutil

from common.boot import boot_id
from common.descriptors import raise_limit
from common.errors import ZapexError

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
STOP_LIMIT_S = 5.0
"""How long a process may take to stop once its parent is gone."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
UNEXPECTED = 70
"""Exit code for a bug (EX_SOFTWARE of sysexits.h)."""
BEGAN_VARIABLE = "ZAPEX_BEGAN_S"
"""Seconds after boot at which `deploy/launch.sh` was ready to become this process."""

log = logging.getLogger(__name__)


def machine_id() -> str:
    """The same for all processes, in containers or not, that run on one kernel."""
    return boot_id() or platform.node()


def loopback_id() -> str:
    """The same for all processes that share a loopback interface: of containers on one machine
    each has its own."""
    try:
        return f"{machine_id()}:{Path('/proc/self/ns/net').stat().st_ino}"
    except OSError:
        return machine_id()


def process_start_s() -> float:
    """When this process began, as time.monotonic(), to a hundredth of a second; without what
    `deploy/launch.sh` installed before.

    All processes of a host share that clock. Where the system does not tell when a process began
    (it does on Linux), the time of the call.
    """
    try:
        # Field 22 of proc(5)'s stat: clock ticks after boot. The command's name, which may hold
        # anything, ends at the last parenthesis.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        # A process that inherited the variable is younger.
        began_s = max(began_s, float(os.environ.get(BEGAN_VARIABLE, 0.0)))
        age_s = max(time.clock_gettime(time.CLOCK_BOOTTIME) - began_s, 0.0)
    except (OSError, AttributeError, ValueError, IndexError):
        age_s = 0.0
    return time.monotonic() - age_s


class _MayLackLines(logging.StreamHandler[TextIO]):
    """A line that a full disk has no room for is lost, without a word that nobody could read."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _LogFile(_MayLackLines, logging.FileHandler):
    pass


FOR_THE_USER = {"for_the_user": True}
"""`extra` of a record that whoever started the run is to read, wherever the log goes."""


class _ForTheUser(logging.Handler):
    """Passes records that are for the user on, without time and place."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "for_the_user", False):
            with contextlib.suppress(OSError):  # Whoever would have heard it is gone.
                self._say(record.getMessage())


def configure_logging(
    level: str, file: Path | None = None, say: Callable[[str], None] | None = None
) -> None:
    """Log to `file`, or to standard error.

    Args:
        file: its directory is made if somebody has deleted it.
        say: gets what is `FOR_THE_USER`. None: the log is what the user reads.
    """
    if file is not None:
        file.parent.mkdir(exist_ok=True)
    log_handler: logging.Handler = _LogFile(file) if file else _MayLackLines()
    log_handler.setLevel(level.upper())
    handlers, root_level = [log_handler], log_handler.level
    if say is not None:
        handlers.append(_ForTheUser(say))
        root_level = min(root_level, logging.INFO)
    logging.basicConfig(level=root_level, format=LOG_FORMAT, handlers=handlers, force=True)
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


_listeners: list[Callable[[ZapexError], None]] = []


def hear_last_words(listener: Callable[[ZapexError], None]) -> None:
    """Have `listener` told why this process ends, should `end_at_once` end it."""
    _listeners.append(listener)


def end_at_once(error: ZapexError) -> NoReturn:
    """End this process from any thread, with the error's exit code and all processes below it: for
    when its main thread hangs in a call that nobody can end."""
    for listener in _listeners:
        with contextlib.suppress(OSError):
            listener(error)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(error.exit_code)


class _MayLackBytes(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def outlast_readers() -> None:
    """What standard output and error cannot take is lost, and the program goes on: whoever read it
    is gone, a full disk has no room for it, or its encoding lacks a character.

    For a program whose work is worth more than its words. One that only tells something ends when
    nobody reads it: see `run_main`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            continue
        # At the stream's bottom, so that print, rich and the flush at the end all have it.
        bottom = io.BufferedWriter(_MayLackBytes(stream.fileno(), "w", closefd=False))
        lines = stream.line_buffering or stream.write_through
        text = io.TextIOWrapper(bottom, stream.encoding, "replace", line_buffering=lines)
        setattr(sys, name, text)


def print_error(error: ZapexError) -> None:
    """As a program says why it ends."""
    print(f"error: {error}", file=sys.stderr, flush=True)


GPU_MEMORY = "GPU memory ran out: free some, or take less: batch_size, prefetch_batches"
_RAN_OUT = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or have the quota raised",
    errno.EROFS: "make it writable, or choose another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (fs.file-max)",
    errno.ENOMEM: "free memory, or take less: replay_capacity, actors, envs_per_actor",
}


def ran_out(error: Exception) -> ZapexError | None:
    """A resource that ran out where nobody reckoned with it (a compiler's cache, a library's file),
    in one line; None: this error is another."""
    # Who has got this error has imported torch. Many a program that ends by way of here never does.
    if isinstance(error, getattr(sys.modules.get("torch"), "OutOfMemoryError", ())):
        return ZapexError(GPU_MEMORY)
    # ZeroMQ's errors have such a number, too.
    number = getattr(error, "errno", None)
    if number not in _RAN_OUT:
        return None
    path = getattr(error, "filename", None)
    where = f" at {path}" if path else ""
    return ZapexError(f"{os.strerror(number)}{where}: {_RAN_OUT[number]}")


def _open_standard_files() -> None:
    """Whoever started this process may have closed some of the three. Files that are opened later
    would get their numbers, and what is printed, by this process or one below it, goes there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest number that is free: its own, as long as nothing else was opened.
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            # Open beyond this object, as Python's own are: another may take its place.
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def run_main(main: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run a program; its exit code. An expected error becomes one line on standard error."""
    _open_standard_files()
    raise_limit()
    try:
        return main() or 0
    except ZapexError as error:
        if debug:
            traceback.print_exc()
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        known = ran_out(error)
        if known is None or debug:
            traceback.print_exc()
        if known is None:
            return UNEXPECTED
        print(f"error: {known}", file=sys.stderr)
        return known.exit_code
