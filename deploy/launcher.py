"""Starts the processes of a run on this host, watches them, restarts what crashed, stops them all.

Roles are forked from one process that has imported everything (`deploy/preload.py`).
"""

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from common.call_cells import CELLS, SINCE_S, Call, Cells, call_in, cells_in, place_in
from common.children import Child, Children, role_failed
from common.config import Config
from common.errors import EnvironmentFault, RoleFailed
from common.restarts import Patience
from deploy.child import child_main
from deploy.topology import RoleSpec

STOP_LIMITS_S = {"learner": 45.0}
"""How long a role may take to stop that has something to write. Beside it, hosts elsewhere have
their time within `deploy.launch.STOP_S`."""
TIMED_OUT = 1
"""Exit code of faulthandler's."""

log = logging.getLogger(__name__)


class Supervisor:
    """The children of one run.

    Args:
        say: prints a line for the user.
        stopping: whether the run is to end; roles that end then are not restarted.
    """

    def __init__(
        self,
        log_level: str,
        say: Callable[[str], None],
        stopping: Callable[[], bool] = lambda: False,
        patience: Patience = Patience(),  # noqa: B008 - frozen
    ) -> None:
        self._log_level, self._say, self._stopping = log_level, say, stopping
        self._specs: dict[str, RoleSpec] = {}
        self._cells: dict[str, Cells] = {}
        """What each role's environments do."""
        self._children = Children(self._start_process, self._ended, say, patience)

    @property
    def children(self) -> dict[str, Child]:
        """Those that run now, by name."""
        return self._children.alive

    def start(self, spec: RoleSpec) -> None:
        """Start a role; `poll` tells when it is ready."""
        self._specs[spec.name] = spec
        self._children.start(spec.name)

    def _start_process(self, name: str, pipe: Connection) -> BaseProcess:
        memory = _CONTEXT.RawArray("d", CELLS)
        self._cells[name] = cells_in(memory)
        words = (self._specs[name], pipe, memory, self._log_level)
        process = _CONTEXT.Process(target=child_main, args=words, name=name)
        process.start()
        return process

    def wait_ready(self, name: str) -> str | None:
        """The address a role is ready at, or None when the run is to end before.

        Raises RoleFailed (or what `poll` raises) when it will not come up.
        """
        while not self._stopping():
            self.poll(0.05)
            child = self.children.get(name)
            if child is None and not self._children.to_be_started:
                raise RoleFailed(f"{name} ended before it was ready")
            if child is not None and child.ready_s is not None:
                return child.address
        return None

    @property
    def all_ready(self) -> bool:
        """Whether every role said that it is ready."""
        waits = any(child.ready_s is None for child in self.children.values())
        return not (waits or self._children.to_be_started)

    def restarting(self, name: str) -> bool:
        """Whether a role is about to be started again."""
        return name in self._children.to_be_started

    def poll(self, timeout_s: float) -> None:
        """Hear the children for at most `timeout_s` seconds; restart what crashed.

        Raises RoleFailed when a role cannot be kept alive, in that role's own words.
        """
        self._children.poll(timeout_s)

    def stop(self, hurried: Callable[[], bool] = lambda: False) -> None:
        """Ask all roles to stop; kill those that have not in time, or once it is `hurried`."""
        self._children.stop(STOP_LIMITS_S, hurried)

    def _ended(self, child: Child, code: int) -> None:
        name, spec, cells = child.name, self._specs[child.name], self._cells[child.name]
        # An environment can end its process as if all were well.
        cut_off = call_in(cells) is not Call.NONE
        if (code == 0 and not cut_off) or self._stopping():
            log.info("%s ended", name)
            return
        how, doing = child.how_it_ended(code), ""
        if cut_off and not child.failure:
            code, how, doing = _last_call(spec.config, cells, code, how)
        how, verdict = self._children.judge(child, spec.role, code, how)
        if verdict.backoff_s is None:
            raise role_failed(code, f"{name}: {how}{verdict.tries}{doing}")
        line = f"{name} {how}: restarting in {verdict.backoff_s:.1f} s{verdict.tries}{doing}"
        log.warning("%s", line)
        self._say(line)
        self._specs[name] = spec.restarted(child.address)
        self._children.start_again(name, verdict.backoff_s)


def _last_call(config: Config, cells: Cells, code: int, how: str) -> tuple[int, str, str]:
    """Exit code, what happened, and what an environment was doing then, for a process that ended in
    a call of its environment without a word."""
    call, place = call_in(cells), place_in(cells)
    limit_s = config.env_make_timeout if call is Call.MAKE else config.env_step_timeout
    lasted_s = time.monotonic() - cells[SINCE_S]
    if code == TIMED_OUT and limit_s is not None and lasted_s >= limit_s:
        hangs = f"{config.env} hangs {call.text}, holding Python's lock: no return within"
        return EnvironmentFault.exit_code, f"{hangs} {lasted_s:.0f} s ({place.text()})", ""
    return code, how, f"; it was {call.text} of {config.env} ({place.text()})"


_CONTEXT = multiprocessing.get_context("forkserver")


def preload() -> None:
    """Start the process that roles are forked from; it imports while the caller goes on."""
    _CONTEXT.set_forkserver_preload(["deploy.preload"])
    # What is ignored stays ignored in the new process and in those forked from it: signals that
    # reach the whole process group are the launcher's alone to hear.
    before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        forkserver.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
