"""The child processes of one parent: started, heard, started again, stopped.

Each has a pipe, by which it says (READY, address) once, (SAID, line) for the user, and, if it comes
to that, (FAILED, why).
Nothing here sleeps: the parent waits for what they say and for their ends. Which of those that
ended come back is `common/restarts.py`'s; what is said of it, and what it means, the parent's.
"""

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.process import BaseProcess
from typing import Any

from common.errors import RoleFailed
from common.restarts import Ending, MemoryWatch, Patience, RestartPolicy, Verdict

READY, SAID, FAILED = "ready", "said", "failed"
STOP_S = 5.0
"""One that has not stopped so long after it was asked to is killed, unless it has more time."""
ASK_AGAIN_S = 0.5
NO_LIMITS: Mapping[str, float] = {}


@dataclass(slots=True)
class Child:
    """One of them, from its start to its end."""

    name: str
    process: BaseProcess
    pipe: Connection
    say: Callable[[str], None]
    ready_s: float | None = None
    """When it was ready; monotonic."""
    address: str = ""
    failure: str = ""
    """What it said before it ended."""

    def hear(self) -> None:
        """Take in what it has said."""
        try:
            while self.pipe.poll():
                what, text = self.pipe.recv()
                if what == READY:
                    self.ready_s, self.address = time.monotonic(), text
                elif what == SAID:
                    self.say(f"{self.name}: {text}")
                elif what == FAILED:
                    self.failure = text
        except (EOFError, OSError):
            self.pipe.close()

    def end(self) -> int:
        """Of one that has ended: take in its last words; its exit code, or minus the signal."""
        self.process.join()
        code = self.process.exitcode or 0
        if not self.pipe.closed:
            self.hear()
            self.pipe.close()
        self.process.close()
        return code

    def how_it_ended(self, code: int) -> str:
        """In its own words, or else in ours."""
        ours = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return self.failure or ours


@dataclass(slots=True)
class Children:
    """Those of one parent, by name.

    Args:
        start_process: starts a process of that name, with that end of a pipe to speak into.
        on_end: told who ended by himself, and with which exit code (or minus the signal).
        say: told what they say for the user.
    """

    start_process: Callable[[str, Connection], BaseProcess]
    on_end: Callable[[Child, int], None]
    say: Callable[[str], None]
    patience: Patience = field(default_factory=Patience)
    alive: dict[str, Child] = field(default_factory=dict)
    _due_s: dict[str, float] = field(default_factory=dict)
    """When those that ended are started again, by the monotonic clock."""
    _policies: dict[str, RestartPolicy] = field(default_factory=dict)
    _memory: MemoryWatch = field(default_factory=MemoryWatch)

    def start(self, name: str) -> None:
        ours, theirs = Pipe(duplex=False)
        process = self.start_process(name, theirs)
        theirs.close()
        self.alive[name] = Child(name, process, ours, self.say)

    @property
    def to_be_started(self) -> set[str]:
        """Names of those that are to be started again."""
        return set(self._due_s)

    def poll(self, timeout_s: float) -> None:
        """Hear them for at most so long; start those whose time has come."""
        sources: dict[Any, Child] = {}
        for child in self.alive.values():
            sources[child.process.sentinel] = child
            if not child.pipe.closed:
                sources[child.pipe] = child
        next_s = min(self._due_s.values(), default=float("inf"))
        timeout_s = min(timeout_s, max(next_s - time.monotonic(), 0.0))
        for source in wait(list(sources), timeout_s):
            child = sources[source]
            if source is child.pipe:
                child.hear()
            elif self.alive.get(child.name) is child:
                del self.alive[child.name]
                self.on_end(child, child.end())
        now_s = time.monotonic()
        for name in [name for name, due_s in self._due_s.items() if due_s <= now_s]:
            del self._due_s[name]
            self.start(name)

    def judge(self, child: Child, role: str, code: int, how: str) -> tuple[str, Verdict]:
        """How it ended, for a message, and what the rule says of that."""
        ending = Ending(
            role=role,
            code=code,
            explained=bool(child.failure),
            ready_for_s=None if child.ready_s is None else time.monotonic() - child.ready_s,
            out_of_memory=code == -signal.SIGKILL and self._memory.ran_out(),
        )
        if ending.out_of_memory:
            how += " when its host had run out of memory"
        policy = self._policies.setdefault(child.name, RestartPolicy(self.patience))
        return how, policy.decide(ending)

    def start_again(self, name: str, backoff_s: float) -> None:
        self._due_s[name] = time.monotonic() + backoff_s

    def stop(
        self, limits_s: Mapping[str, float] = NO_LIMITS, hurried: Callable[[], bool] = lambda: False
    ) -> None:
        """Ask all to stop; kill those that have not in time, and say so.

        Args:
            limits_s: of those that have another time than `STOP_S`, by name.
            hurried: whether nobody is waited for any longer.
        """
        self._due_s.clear()
        children, self.alive = list(self.alive.values()), {}
        began_s = time.monotonic()
        stopping = children
        while stopping:
            for child in stopping:
                child.process.terminate()
            # Asked again now and then: one that is just being started does not listen yet.
            wait([child.process.sentinel for child in stopping], ASK_AGAIN_S)
            stopping = [child for child in stopping if child.process.is_alive()]
            for child in list(stopping):
                limit_s = limits_s.get(child.name, STOP_S)
                if hurried():
                    why = "had not stopped yet"
                elif time.monotonic() - began_s >= limit_s:
                    why = f"did not stop within {limit_s:.0f} s"
                else:
                    continue
                child.process.kill()
                self.say(f"{child.name} {why}: killed")
                stopping.remove(child)
        for child in children:
            child.end()
            if child.failure:
                self.say(f"{child.name}: {child.failure}")


def role_failed(code: int, message: str) -> RoleFailed:
    """The end of a parent by a child's: its exit code is the parent's, too."""
    error = RoleFailed(message)
    error.exit_code = code if code > 0 else RoleFailed.exit_code
    return error
