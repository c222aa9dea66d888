"""Several actor processes on one host, started, restarted and ended together.

`python -m actor --processes auto`. Each is an actor like any other and joins the head by itself,
which gives it its number. They are forked from a process that has imported everything, so all of
them share what torch takes of the memory. With `--relay` one more takes the weights from the head
for all of them (`actor/weight_relay.py`).
"""

import faulthandler
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import zmq

from common.errors import ConfigError, HeadUnreachable, JoinRefused, RoleFailed, ZapexError
from common.process import (
    LOG_FORMAT,
    UNEXPECTED,
    configure_logging,
    handling_signals,
    hear_last_words,
    stop_with_parent,
)
from common.restarts import TERMINATED, Ending, MemoryWatch, Patience, RestartPolicy, Verdict
from common.security import SecureContext, Security

SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_S = 0.1
STOP_S = 5.0
"""A process that has not stopped so long after it was asked to is killed."""
ASK_AGAIN_S = 0.5
NO_HEAD = {HeadUnreachable.exit_code, JoinRefused.exit_code}
"""Exit codes of an actor that has waited for its head for long enough, or was turned away."""
RELAY = "relay"
"""Name of the process that does not act."""
QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""What a container may use, as cgroup v2 tells it: microseconds of each period, or max."""

log = logging.getLogger(__name__)


def usable_cores(quota: Path = QUOTA) -> int:
    """Cores that this process may use: of those it is bound to, what its container is granted."""
    cores = len(os.sched_getaffinity(0))
    try:
        granted, period = quota.read_text().split()
        return max(1, min(cores, int(granted) // int(period)))
    except (OSError, ValueError):
        return cores


def process_count(wanted: int | str) -> int:
    """How many actor processes `--processes` means here. Raises ConfigError for less than one."""
    cores = usable_cores()
    if isinstance(wanted, str):
        return cores
    if wanted < 1:
        raise ConfigError(f"--processes {wanted}: must be at least 1, or auto: one for each core")
    if wanted > cores:
        log.warning(
            "%d actor processes on %d cores take turns: --processes auto starts one for each "
            "(more pay off with --inference host alone)", wanted, cores,
        )  # fmt: skip
    return wanted


def run_processes(
    count: int,
    options: Mapping[str, Any],
    security: Security,
    log_level: str,
    stop: threading.Event,
    *,
    relay: bool = False,
) -> None:
    """Run that many actors until the head has ended them all, or `stop` is set.

    Args:
        options: fields of `actor.loop.ActorOptions`, whose module this process need not import.
        relay: start a weight relay for them, too. It is restarted as they are; when it cannot be
            kept alive, they go on with weights from the head.

    Raises ZapexError, in the words and with the exit code of the actor that cannot be kept alive;
    the others are ended before.
    """
    host = _Host(options, security, log_level)
    try:
        # The first start takes as long as it takes to import torch; nobody need wait for that who
        # wants this process to end.
        with handling_signals(_leave):
            _start_forkserver()
            if relay:
                host.start(RELAY)
            for i in range(count):
                host.start(f"process {i}")
        while host.acting and not stop.is_set():
            host.poll()
    finally:
        host.stop()


def _leave() -> None:
    raise SystemExit(0)


def _start_forkserver() -> None:
    _CONTEXT.set_forkserver_preload(["actor.loop"])
    # Ctrl-C reaches every process of the terminal; the parent alone decides what it means. What is
    # blocked stays so in the new process, and in those forked from it until they listen themselves.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@dataclass(slots=True)
class _Child:
    name: str
    process: BaseProcess
    pipe: Connection
    ready_s: float | None = None
    """When it was ready; monotonic."""
    failure: str = ""


@dataclass(slots=True)
class _Host:
    options: Mapping[str, Any]
    security: Security
    log_level: str
    patience: Patience = field(default_factory=Patience)
    _children: dict[str, _Child] = field(default_factory=dict)
    _due_s: dict[str, float] = field(default_factory=dict)
    """When those that ended are started again, by the monotonic clock."""
    _policies: dict[str, RestartPolicy] = field(default_factory=dict)
    _memory: MemoryWatch = field(default_factory=MemoryWatch)

    @property
    def acting(self) -> bool:
        """Whether there is an actor, or will be again."""
        return bool((self._children.keys() | self._due_s.keys()) - {RELAY})

    def start(self, name: str) -> None:
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        words = (self.options, self.security, name, self.log_level, theirs)
        process = _CONTEXT.Process(target=_child_main, args=words, name=name)
        process.start()
        theirs.close()
        self._children[name] = _Child(name, process, ours)

    def poll(self) -> None:
        sources: dict[Any, _Child] = {}
        for child in self._children.values():
            sources[child.process.sentinel] = child
            if not child.pipe.closed:
                sources[child.pipe] = child
        for source in wait(list(sources), POLL_S):
            child = sources[source]
            if source is child.pipe:
                self._hear(child)
            elif self._children.get(child.name) is child:
                self._ended(child)
        now_s = time.monotonic()
        for name in [name for name, due_s in self._due_s.items() if due_s <= now_s]:
            del self._due_s[name]
            self.start(name)

    def stop(self) -> None:
        self._due_s.clear()
        children = list(self._children.values())
        self._children.clear()
        deadline_s = time.monotonic() + STOP_S
        alive = children
        while alive and time.monotonic() < deadline_s:
            for child in alive:
                child.process.terminate()
            # Asked again now and then: one that is just being started does not listen yet.
            wait([child.process.sentinel for child in alive], ASK_AGAIN_S)
            alive = [child for child in alive if child.process.is_alive()]
        for child in alive:
            log.warning("%s did not stop within %.0f s: killed", child.name, STOP_S)
            child.process.kill()
        for child in children:
            child.process.join()
            child.pipe.close()

    def _ended(self, child: _Child) -> None:
        child.process.join()
        code = child.process.exitcode or 0
        if not child.pipe.closed:
            self._hear(child)
            child.pipe.close()
        del self._children[child.name]
        if code == 0:
            log.info("%s ended", child.name)
            return
        how = child.failure or (
            f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        )
        now_s = time.monotonic()
        verdict = self._decide(child, code, now_s)
        if verdict.backoff_s is not None:
            log.warning(
                "%s: %s: restarting in %.1f s%s", child.name, how, verdict.backoff_s, verdict.tries
            )
            self._due_s[child.name] = now_s + verdict.backoff_s
        elif child.name == RELAY:
            log.warning(
                "%s: %s%s: the actors take their weights from the head",
                child.name, how, verdict.tries,
            )  # fmt: skip
        else:
            error = RoleFailed(how + verdict.tries)
            error.exit_code = code if code > 0 else RoleFailed.exit_code
            raise error

    def _decide(self, child: _Child, code: int, now_s: float) -> Verdict:
        if code in NO_HEAD:
            return Verdict(None, "")
        ending = Ending(
            role=RELAY if child.name == RELAY else "actor",
            code=code,
            explained=bool(child.failure),
            ready_for_s=None if child.ready_s is None else now_s - child.ready_s,
            out_of_memory=code == -signal.SIGKILL and self._memory.ran_out(),
        )
        return self._policies.setdefault(child.name, RestartPolicy(self.patience)).decide(ending)

    @staticmethod
    def _hear(child: _Child) -> None:
        try:
            while child.pipe.poll():
                failure = child.pipe.recv()
                if failure:
                    child.failure = failure
                elif child.ready_s is None:
                    child.ready_s = time.monotonic()
        except (EOFError, OSError):
            child.pipe.close()


def _child_main(
    options: Mapping[str, Any], security: Security, name: str, log_level: str, pipe: Connection
) -> None:
    """One of the processes; ends it with the error's exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop, terminated = threading.Event(), threading.Event()

    def on_terminate(*_: object) -> None:
        terminated.set()
        stop.set()

    signal.signal(signal.SIGTERM, on_terminate)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    configure_logging(log_level)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter(f"{name}: {LOG_FORMAT}"))
    faulthandler.enable()
    parent = multiprocessing.parent_process()
    if parent is not None:
        stop_with_parent(parent.sentinel, stop)
    hear_last_words(lambda error: pipe.send(str(error)))
    run = _relay if name == RELAY else _act
    try:
        with SecureContext(security) as context:
            run(options, context, stop, lambda _: pipe.send(""))
    except ZapexError as error:
        log.debug("failed", exc_info=True)
        pipe.send(str(error))
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        log.exception("unexpected")
        pipe.send(f"unexpected {type(error).__name__}: {error}")
        raise SystemExit(UNEXPECTED) from None
    if terminated.is_set():
        raise SystemExit(TERMINATED)


def _act(
    options: Mapping[str, Any],
    context: zmq.Context[zmq.Socket[bytes]],
    stop: threading.Event,
    ready: Callable[[str], None],
) -> None:
    import torch

    from actor.loop import ActorOptions, run_actor

    torch.set_num_threads(1)
    run_actor(ActorOptions(**options), context, stop, ready)


def _relay(
    options: Mapping[str, Any],
    context: zmq.Context[zmq.Socket[bytes]],
    stop: threading.Event,
    ready: Callable[[str], None],
) -> None:
    from actor.weight_relay import RelayOptions, run_weight_relay

    same = {field.name for field in fields(RelayOptions)} & options.keys()
    run_weight_relay(RelayOptions(**{name: options[name] for name in same}), context, stop, ready)


_CONTEXT = multiprocessing.get_context("forkserver")
