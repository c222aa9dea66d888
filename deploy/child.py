"""One role in a process of its own, as the launcher starts it."""

import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from common.call_cells import cells_in, share_cells
from common.children import FAILED, READY
from common.errors import ZapexError
from common.process import (
    UNEXPECTED,
    configure_logging,
    hear_last_words,
    ran_out,
    stop_with_parent,
)
from common.restarts import TERMINATED
from common.security import SecureContext, announce, open_security
from deploy.topology import RoleSpec, run_role


def child_main(spec: RoleSpec, pipe: Connection, cells: Any, log_level: str) -> None:
    """Run the role; tell the launcher (READY, address) and, if it comes to that, (FAILED, why).

    Ends the process with the error's exit code.

    Args:
        cells: memory in which the launcher sees what the role's environments do.
    """
    share_cells(cells_in(cells))
    hear_last_words(lambda error: pipe.send((FAILED, str(error))))
    # Ctrl-C reaches every process of the terminal; the launcher alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    terminated = threading.Event()

    def on_terminate(*_: object) -> None:
        terminated.set()
        stop.set()

    signal.signal(signal.SIGTERM, on_terminate)
    with spec.log_file.open("ab", buffering=0) as file:
        # What libraries print, and the last words of a crash, belong in the log too.
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    # A crash in C code says where it was.
    faulthandler.enable()
    configure_logging(log_level)
    log = logging.getLogger(spec.name)
    parent = multiprocessing.parent_process()
    if parent is not None:
        stop_with_parent(parent.sentinel, stop)
    sys.exit(_run(spec, pipe, stop, terminated, log))


def _run(
    spec: RoleSpec,
    pipe: Connection,
    stop: threading.Event,
    terminated: threading.Event,
    log: logging.Logger,
) -> int:
    import torch

    torch.set_num_threads(1)
    try:
        security = open_security(spec.keys, insecure=spec.insecure)
        announce(security)
        log.info("pid %d", os.getpid())
        with SecureContext(security) as context:
            run_role(spec, context, stop, lambda address: pipe.send((READY, address)))
    except ZapexError as error:
        log.error("%s", error, exc_info=log.isEnabledFor(logging.DEBUG))
        pipe.send((FAILED, str(error)))
        return error.exit_code
    except Exception as error:
        log.exception("unexpected")
        known = ran_out(error)
        if known is not None:
            pipe.send((FAILED, f"{known} (see {spec.log_file})"))
            return known.exit_code
        what = " ".join(f"{type(error).__name__}: {error}".split())
        pipe.send((FAILED, f"unexpected {what} (see {spec.log_file})"))
        return UNEXPECTED
    return TERMINATED if terminated.is_set() and spec.role != "learner" else 0
