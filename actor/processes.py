"""Several actor processes on one host, started, restarted and ended together.

`python -m actor --processes auto`. Each is an actor like any other and joins the head by itself,
which gives it its number. They are forked from a process that has imported everything, so all of
them share what torch takes of the memory. With `--relay` one more takes the weights from the head
for all of them (`actor/weight_relay.py`).
"""

import logging
import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from actor.options import MemberOptions
from common.child import exit_code_of, heed_parent
from common.children import READY, Child, Children, role_failed
from common.errors import ConfigError, HeadUnreachable, JoinRefused
from common.process import LOG_FORMAT, configure_logging, handling_signals
from common.restarts import TERMINATED, Patience, Verdict
from common.security import SecureContext, Security

SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_S = 0.1
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
    options: MemberOptions,
    security: Security,
    log_level: str,
    stop: threading.Event,
    *,
    relay: bool = False,
) -> None:
    """Run that many actors until the head has ended them all, or `stop` is set.

    Args:
        options: of each of them.
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


def _warn(line: str) -> None:
    log.warning("%s", line)


class _Host:
    def __init__(
        self,
        options: MemberOptions,
        security: Security,
        log_level: str,
        patience: Patience = Patience(),  # noqa: B008 - frozen
    ) -> None:
        self._options, self._security, self._log_level = options, security, log_level
        self._children = Children(self._start_process, self._ended, _warn, patience)

    def start(self, name: str) -> None:
        self._children.start(name)

    @property
    def acting(self) -> bool:
        """Whether there is an actor, or will be again."""
        return bool((self._children.alive.keys() | self._children.to_be_started) - {RELAY})

    def poll(self) -> None:
        self._children.poll(POLL_S)

    def stop(self) -> None:
        self._children.stop()

    def _start_process(self, name: str, pipe: Connection) -> BaseProcess:
        words = (self._options, self._security, name, self._log_level, pipe)
        process = _CONTEXT.Process(target=_child_main, args=words, name=name)
        process.start()
        return process

    def _ended(self, child: Child, code: int) -> None:
        if code == 0:
            log.info("%s ended", child.name)
            return
        how, verdict = child.how_it_ended(code), Verdict(None, "")
        if code not in NO_HEAD:
            role = RELAY if child.name == RELAY else "actor"
            how, verdict = self._children.judge(child, role, code, how)
        if verdict.backoff_s is not None:
            log.warning(
                "%s: %s: restarting in %.1f s%s", child.name, how, verdict.backoff_s, verdict.tries
            )
            self._children.start_again(child.name, verdict.backoff_s)
        elif child.name == RELAY:
            log.warning(
                "%s: %s%s: the actors take their weights from the head",
                child.name, how, verdict.tries,
            )  # fmt: skip
        else:
            raise role_failed(code, how + verdict.tries)


def _child_main(
    options: MemberOptions, security: Security, name: str, log_level: str, pipe: Connection
) -> None:
    """One of the processes; ends it with the error's exit code."""
    stop, terminated = heed_parent(pipe)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    configure_logging(log_level)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter(f"{name}: {LOG_FORMAT}"))

    def run_role() -> None:
        import torch

        from actor.loop import run_actor
        from actor.weight_relay import run_weight_relay

        torch.set_num_threads(1)
        run = run_weight_relay if name == RELAY else run_actor
        with SecureContext(security) as context:
            run(options, context, stop, lambda address: pipe.send((READY, address)))

    # The parent says it on the same terminal.
    code = exit_code_of(run_role, pipe, log, level=logging.DEBUG)
    raise SystemExit(TERMINATED if not code and terminated.is_set() else code)


_CONTEXT = multiprocessing.get_context("forkserver")
