"""A child's own side of `common/children.py`: what it heeds, and what its parent is told."""

import faulthandler
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from common.children import FAILED
from common.errors import ZapexError
from common.process import UNEXPECTED, hear_last_words, ran_out, stop_with_parent


def heed_parent(pipe: Connection) -> tuple[threading.Event, threading.Event]:
    """What a child does before its work. Returns two events: it is to stop, because of SIGTERM or
    because its parent is gone; it has got SIGTERM."""
    hear_last_words(lambda error: pipe.send((FAILED, str(error))))
    # Ctrl-C reaches every process of the terminal; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop, terminated = threading.Event(), threading.Event()

    def on_terminate(*_: object) -> None:
        terminated.set()
        stop.set()

    signal.signal(signal.SIGTERM, on_terminate)
    # A crash in C code says where it was.
    faulthandler.enable()
    parent = multiprocessing.parent_process()
    if parent is not None:
        stop_with_parent(parent.sentinel, stop)
    return stop, terminated


def exit_code_of(
    run: Callable[[], None],
    pipe: Connection,
    log: logging.Logger,
    *,
    level: int = logging.ERROR,
    details: str = "",
) -> int:
    """Run, and tell the parent what went wrong, if anything did; the exit code to end with.

    Args:
        level: at which this process's own log has errors that the parent is told of as they are.
        details: where to read more, behind errors that nobody expected.
    """
    try:
        run()
    except ZapexError as error:
        log.log(level, "%s", error, exc_info=log.isEnabledFor(logging.DEBUG))
        pipe.send((FAILED, str(error)))
        return error.exit_code
    except Exception as error:
        known = ran_out(error)
        if known is not None:
            log.log(level, "%s", known, exc_info=True)
            pipe.send((FAILED, f"{known}{details}"))
            return known.exit_code
        log.exception("unexpected")
        what = " ".join(f"{type(error).__name__}: {error}".split())
        pipe.send((FAILED, f"unexpected {what}{details}"))
        return UNEXPECTED
    return 0
