"""Starts the processes of a run on this host, watches them, restarts what crashed, stops them all.

Roles are forked from one process that has imported everything (`deploy/preload.py`). Nothing here
sleeps: the launcher waits for what its children say and for their ends.
"""

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from common.call_cells import CELLS, SINCE_S, Call, Cells, call_in, cells_in, place_in
from common.errors import EnvironmentFault, RoleFailed, ZapexError
from common.restarts import Ending, MemoryWatch, Patience, RestartPolicy
from deploy.child import FAILED, READY, child_main
from deploy.topology import RoleSpec

STOP_S = 5.0
"""A role that has not stopped so long after it was asked to is killed."""
ASK_AGAIN_S = 0.5
TIMED_OUT = 1
"""Exit code of faulthandler's."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Child:
    spec: RoleSpec
    process: BaseProcess
    pipe: Connection
    cells: Cells
    """What its environments do."""
    ready_s: float | None = None
    """When it was ready; monotonic."""
    address: str = ""
    failure: str = ""
    """What it said before it ended."""

    @property
    def ready(self) -> bool:
        return self.ready_s is not None


@dataclass(slots=True)
class _Restart:
    spec: RoleSpec
    due_s: float


@dataclass(slots=True)
class Supervisor:
    """The children of one run.

    Args:
        say: prints a line for the user.
        stopping: whether the run is to end; roles that end then are not restarted.
    """

    log_level: str
    say: Callable[[str], None]
    stopping: Callable[[], bool] = lambda: False
    children: dict[str, _Child] = field(default_factory=dict)
    patience: Patience = field(default_factory=Patience)
    restarts: int = 0
    """Of all roles, since the run began."""
    _scheduled: list[_Restart] = field(default_factory=list)
    _policies: dict[str, RestartPolicy] = field(default_factory=dict)
    _memory: MemoryWatch = field(default_factory=MemoryWatch)

    def start(self, spec: RoleSpec) -> None:
        """Start a role; `poll` tells when it is ready."""
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        memory = _CONTEXT.RawArray("d", CELLS)
        process = _CONTEXT.Process(
            target=child_main, args=(spec, theirs, memory, self.log_level), name=spec.name
        )
        process.start()
        theirs.close()
        self.children[spec.name] = _Child(spec, process, ours, cells_in(memory))

    def wait_ready(self, name: str, stopped: Callable[[], bool]) -> str | None:
        """The address a role is ready at, or None when `stopped()` became true before.

        Raises RoleFailed (or what `poll` raises) when it will not come up.
        """
        while not stopped():
            self.poll(0.05)
            child = self.children.get(name)
            if child is None and not self._scheduled:
                raise RoleFailed(f"{name} ended before it was ready")
            if child is not None and child.ready:
                return child.address
        return None

    @property
    def all_ready(self) -> bool:
        """Whether every role said that it is ready."""
        return not self._scheduled and all(child.ready for child in self.children.values())

    def restarting(self, name: str) -> bool:
        """Whether a role is about to be started again."""
        return any(r.spec.name == name for r in self._scheduled)

    def poll(self, timeout_s: float) -> None:
        """Hear the children for at most `timeout_s` seconds; restart what crashed.

        Raises RoleFailed when a role cannot be kept alive, in that role's own words.
        """
        sources: dict[Any, _Child] = {}
        for child in self.children.values():
            sources[child.process.sentinel] = child
            if not child.pipe.closed:
                sources[child.pipe] = child
        due_s = min((r.due_s for r in self._scheduled), default=float("inf"))
        timeout_s = min(timeout_s, max(due_s - time.monotonic(), 0.0))
        for source in wait(list(sources), timeout_s):
            child = sources[source]
            if source is child.pipe:
                self._hear(child)
            elif self.children.get(child.spec.name) is child:
                self._ended(child)
        now_s = time.monotonic()
        for restart in [r for r in self._scheduled if r.due_s <= now_s]:
            self._scheduled.remove(restart)
            self.start(restart.spec)

    def stop(self) -> None:
        """Ask all roles to stop; kill those that have not within `STOP_S`."""
        self._scheduled.clear()
        deadline_s = time.monotonic() + STOP_S
        alive = list(self.children.values())
        while alive and time.monotonic() < deadline_s:
            for child in alive:
                child.process.terminate()
            # Asked again now and then: one that is just being started does not listen yet.
            wait([child.process.sentinel for child in alive], ASK_AGAIN_S)
            alive = [child for child in alive if child.process.is_alive()]
        for child in self.children.values():
            if child.process.is_alive():
                self.say(f"{child.spec.name} did not stop within {STOP_S:.0f} s: killed")
                child.process.kill()
            child.process.join()
            child.process.close()
            if not child.pipe.closed:
                self._hear(child)
                child.pipe.close()
            if child.failure:
                self.say(f"{child.spec.name}: {child.failure}")
        self.children.clear()

    def _hear(self, child: _Child) -> None:
        try:
            while child.pipe.poll():
                what, text = child.pipe.recv()
                if what == READY:
                    child.ready_s, child.address = time.monotonic(), text
                elif what == FAILED:
                    child.failure = text
        except (EOFError, OSError):
            child.pipe.close()

    def _ended(self, child: _Child) -> None:
        child.process.join()
        code = child.process.exitcode or 0
        if not child.pipe.closed:
            self._hear(child)
            child.pipe.close()
        name = child.spec.name
        del self.children[name]
        child.process.close()
        # An environment can end its process as if all were well.
        cut_off = call_in(child.cells) is not Call.NONE
        if (code == 0 and not cut_off) or self.stopping():
            log.info("%s ended", name)
            return
        how = child.failure or (
            f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        )
        doing = ""
        if cut_off and not child.failure:
            code, how, doing = _last_call(child, code, how)
        self._decide(child, code, how, doing)

    def _decide(self, child: _Child, code: int, how: str, doing: str) -> None:
        name, now_s = child.spec.name, time.monotonic()
        ending = Ending(
            role=child.spec.role,
            code=code,
            explained=bool(child.failure),
            ready_for_s=None if child.ready_s is None else now_s - child.ready_s,
            out_of_memory=code == -signal.SIGKILL and self._memory.ran_out(),
        )
        if ending.out_of_memory:
            how += " when its host had run out of memory"
        verdict = self._policies.setdefault(name, RestartPolicy(self.patience)).decide(ending)
        if verdict.backoff_s is None:
            raise _failure(code, f"{name}: {how}{verdict.tries}{doing}")
        self.restarts += 1
        line = f"{name} {how}: restarting in {verdict.backoff_s:.1f} s{verdict.tries}{doing}"
        log.warning("%s", line)
        self.say(line)
        self._scheduled.append(
            _Restart(child.spec.restarted(child.address), now_s + verdict.backoff_s)
        )


def _last_call(child: _Child, code: int, how: str) -> tuple[int, str, str]:
    """Exit code, what happened, and what an environment was doing then, for a process that ended in
    a call of its environment without a word."""
    config = child.spec.config
    call, place = call_in(child.cells), place_in(child.cells)
    limit_s = config.env_make_timeout if call is Call.MAKE else config.env_step_timeout
    lasted_s = time.monotonic() - child.cells[SINCE_S]
    if code == TIMED_OUT and limit_s is not None and lasted_s >= limit_s:
        hangs = f"{config.env} hangs {call.text}, holding Python's lock: no return within"
        return EnvironmentFault.exit_code, f"{hangs} {lasted_s:.0f} s ({place.text()})", ""
    return code, how, f"; it was {call.text} of {config.env} ({place.text()})"


def _failure(code: int, message: str) -> ZapexError:
    """The role's own exit code is the launcher's too."""
    error = RoleFailed(message)
    error.exit_code = code if code > 0 else RoleFailed.exit_code
    return error


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
