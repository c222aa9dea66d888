"""One role in a process of its own, as the launcher starts it."""

import logging
import os
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from common.call_cells import cells_in, share_cells
from common.child import exit_code_of, heed_parent
from common.children import READY, SAID
from common.process import configure_logging
from common.restarts import TERMINATED
from common.run_directory import open_log
from common.security import SecureContext, announce, open_security
from deploy.topology import RoleSpec, run_role


def child_main(spec: RoleSpec, pipe: Connection, cells: Any, log_level: str) -> None:
    """Run the role; tell the launcher what `common/children.py` has.

    Ends the process with the error's exit code.

    Args:
        cells: memory in which the launcher sees what the role's environments do.
    """
    share_cells(cells_in(cells))
    stop, terminated = heed_parent(pipe)
    configure_logging(log_level, say=lambda line: pipe.send((SAID, line)))
    log = logging.getLogger(spec.name)
    code = exit_code_of(
        lambda: _run(spec, pipe, stop, log), pipe, log, details=f" (see {spec.log_file})"
    )
    if not code and terminated.is_set() and spec.role != "learner":
        code = TERMINATED
    sys.exit(code)


def _run(spec: RoleSpec, pipe: Connection, stop: threading.Event, log: logging.Logger) -> None:
    with open_log(spec.log_file) as file:
        # What libraries print, and the last words of a crash, belong in the log too.
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    import torch

    torch.set_num_threads(1)
    security = open_security(spec.keys, insecure=spec.insecure)
    announce(security)
    log.info("pid %d", os.getpid())
    with SecureContext(security) as context:
        run_role(spec, context, stop, lambda address: pipe.send((READY, address)))
