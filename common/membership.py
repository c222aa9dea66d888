"""A process's place in a run: joining the head, heartbeats, and what the head wants.

Nothing here runs in the background: the owner calls `poll` from its loop, so that a heartbeat says
that the loop is alive, not that a thread beside it is. The one exception is `say_busy`: a loop that
is in a call of its environments cannot speak, and the thread that watches that call does so in its
place.
"""

import logging
import os
import secrets
import socket as host_names
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import zmq

from common import transport
from common.errors import (
    ConfigError,
    HeadUnreachable,
    JoinRefused,
    MalformedMessage,
    SchemaMismatch,
    WireError,
)
from common.exporter import NO_METRICS, Exporter, MetricsOptions
from common.listening_clock import ListeningClock
from common.manifest import Manifest
from common.messages import (
    Directive,
    Heartbeat,
    Join,
    Leave,
    Message,
    Refused,
    StatusRequest,
    Welcome,
)
from common.metrics import Telemetry
from common.process import loopback_id
from common.reachability import why_silent
from common.rejections import Rejections, quoted
from common.security import security_of
from common.welcome import check_directive, check_welcome

POLL_PERIOD_S = 0.01
"""Calls of `poll` that come sooner return at once."""
HEARTBEAT_PERIOD_S = 1.0
JOIN_TIMEOUT_S = 60.0
FIRST_WORD_S, LAST_WORD_S = 2.0, 30.0
"""A process that waits for its head says so after 2, 4, 8, … seconds, then every 30."""
HEAD_SILENCE_WARNING_S = 10.0
HEAD_SILENCE_LIMIT_S = 600.0
"""A process that has not heard from the head for so long ends."""
MAX_UNHEARD_S = 60.0
"""What lies between two looks counts as no more silence than this: a process that was stopped for
an hour has not listened."""

FAREWELL_MS = 2_000
"""How long a process that ends at once waits for its goodbye to be heard, at most."""

MAX_EPISODES = 10_000
"""Finished episodes kept for a head that is away."""

log = logging.getLogger(__name__)


class Episode(NamedTuple):
    """A finished one."""

    raw_return: float
    length: int
    """Environment steps."""
    env: int
    """Which of the actor's environments it was in."""


EpisodeColumns = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]]


def episode_columns(episodes: Sequence[Episode]) -> EpisodeColumns:
    """As a heartbeat tells them."""
    returns, lengths, envs = zip(*episodes, strict=True) if episodes else ((), (), ())
    return np.array(returns, np.float32), np.array(lengths, np.int32), np.array(envs, np.int32)


_NO_EPISODES = episode_columns([])


class Membership:
    """One process's connection to the head.

    Args:
        address: the head's control address.
        role: actor, evaluator, inference, relay or replay_server.
        num_envs: environments on the ε ladder; 0: as many as the configuration says.
        preferred_number: take over from the process of this role and host that had it; −1: any.
        alone: this host has one process of this role at a time: take over from whichever was there.
        metrics: where Prometheus gets what heartbeats tell.

    A context manager: leaving it says goodbye to the head, with the error if there is one.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        role: str,
        *,
        num_envs: int = 0,
        preferred_number: int = -1,
        alone: bool = False,
        metrics: MetricsOptions = NO_METRICS,
    ) -> None:
        self._exporter = Exporter(metrics, security_of(context))
        self._context = context
        self.address = address
        """The head's control address."""
        self._role = role
        prefix = "replay" if role == "replay_server" else role
        self.rejections = Rejections(f"{prefix}_rejected_messages_total")
        """Everything that this process did not accept, of whomever."""
        self._num_envs = num_envs
        self._number, self._alone = preferred_number, alone
        self._token = secrets.randbits(62)
        self._socket, self._watch = transport.connect_watched(context, zmq.DEALER, address)
        self._using_socket = threading.Lock()
        """Held by whichever thread uses the socket: the fence that ZeroMQ asks for where a socket
        goes from one thread to another."""
        self._next_busy_s = 0.0
        self._next_poll_s = 0.0
        self._next_heartbeat_s = 0.0
        self._clock = ListeningClock(0.0, MAX_UNHEARD_S)
        self._last_heard_s = 0.0
        """As that clock shows it."""
        self._warned = False
        self._joining = False
        self._episodes: list[Episode] = []
        self.welcome: Welcome
        """The head's newest answer to a join."""
        self.manifest: Manifest
        self.ladder_size = 1
        self.replay_endpoint = ""
        """Of the replay server that this actor's experience goes to."""
        self.inference_endpoint = ""
        """Of the inference process on this host; empty: there is none."""
        self.relay_endpoint = ""
        """Of the weight relay on this host; empty: there is none."""
        self.joins = 0
        """Times the head took this process in; more than 1 after the head was restarted."""
        self.contacts = 0
        """Those, and new connections: what was said to the head before may be lost."""
        self.stop_requested = False

    def join(
        self,
        now_s: Callable[[], float],
        stop: threading.Event,
        timeout_s: float = JOIN_TIMEOUT_S,
    ) -> Manifest | None:
        """Wait until the head takes this process in. Returns None when `stop` was set first.

        Sockets connect again by themselves; this says every now and then what it waits for.

        Args:
            now_s: the monotonic clock.

        Raises:
            HeadUnreachable: nobody answered in `timeout_s` seconds.
            JoinRefused: the head said no, and why; or the keys of the two do not fit.
            ConfigError: this is no number of seconds.
        """
        if not timeout_s >= 0:  # Nor is NaN, which no time ever exceeds.
            raise ConfigError(f"--join-timeout {timeout_s}: must be a number of seconds, 0 or more")
        self._send_join()
        began_s, patience_s = now_s(), FIRST_WORD_S
        while not self.joins:
            if stop.is_set():
                return None
            waited_s = now_s() - began_s
            if waited_s > timeout_s:
                raise HeadUnreachable(
                    f"no answer from a head at {self.address} in {timeout_s:.0f} s: "
                    f"{why_silent(self.address)}"
                )
            if waited_s > patience_s:
                patience_s = waited_s + min(patience_s, LAST_WORD_S)
                log.warning(
                    "no answer from a head at %s yet, trying for %.0f s more: %s",
                    self.address, timeout_s - waited_s, why_silent(self.address),
                )  # fmt: skip
            if self._watch.reconnected():
                self._send_join()
            transport.wait(self._socket, 50)
            self._exporter.health.turned()
            self._receive(now_s())
        return self.manifest

    def poll(self, now_s: float, telemetry: Telemetry) -> None:
        """Hear what the head wants; send a heartbeat with a snapshot of `telemetry` if one is due.

        Raises HeadUnreachable after a long silence, JoinRefused when a restarted head says no, or
        this process's key was revoked.
        """
        if now_s < self._next_poll_s:
            return
        self._next_poll_s = now_s + POLL_PERIOD_S
        self._exporter.health.turned()
        self._receive(now_s)
        if now_s < self._next_heartbeat_s:
            return
        self._next_heartbeat_s = now_s + HEARTBEAT_PERIOD_S
        self._check_silence(now_s)
        if self._watch.reconnected():
            self._joining = False
            self.contacts += 1
        if not self._joining:
            values, histograms = telemetry.snapshot()
            run, number = self.manifest.run_id, self.welcome.number
            self._exporter.show(run, self._role, number, telemetry)
            columns = episode_columns(self._episodes) if self._episodes else _NO_EPISODES
            if self.send(Heartbeat(self.welcome.session, values, *columns, histograms)):
                self._episodes.clear()

    def record_episodes(self, episodes: Sequence[Episode]) -> None:
        """Finished episodes, for the next heartbeat."""
        self._episodes += episodes
        # A head that is away for long must not make this grow.
        del self._episodes[:-MAX_EPISODES]

    def send(self, message: Message) -> bool:
        """Any other message to the head; false if it had to be dropped."""
        with self._using_socket:
            return transport.send(self._socket, message)

    def say_busy(self, now_s: float) -> None:
        """A heartbeat in place of the loop's when that is due: for the thread that watches the call
        of an environment which the loop is in. It tells nothing new but that this process lives."""
        if now_s < max(self._next_heartbeat_s, self._next_busy_s):
            return
        self._next_busy_s = now_s + HEARTBEAT_PERIOD_S
        self._exporter.health.turned()
        if not self._joining:
            self.send(Heartbeat(self.welcome.session, {}, *_NO_EPISODES))

    def leave(self, reason: str) -> None:
        """Say goodbye and close."""
        if self.joins:
            self.send(Leave(self.welcome.session, reason))
        self._watch.close()
        self._socket.close()
        self._exporter.close()

    def leave_for_hanging_loop(self, reason: str) -> None:
        """Say goodbye from another thread than the one that calls `poll`, which hangs."""
        socket = transport.connect(self._context, zmq.DEALER, self.address)
        transport.send(socket, Leave(self.welcome.session, reason))
        # This has an answer: when it comes, what was sent before has arrived.
        transport.send(socket, StatusRequest())
        transport.wait(socket, FAREWELL_MS)
        socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave("stopped" if error is None else str(error))

    def _send_join(self) -> None:
        self._joining = True
        host = host_names.gethostname()
        # Only a first join stands in for a dead process; later this one holds its number itself.
        take_over = (self._number >= 0 or self._alone) and not self.joins
        self.send(
            Join(
                self._role,
                host,
                os.getpid(),
                self._num_envs,
                self._number,
                take_over,
                self._token,
                loopback_id(),
                self._exporter.endpoint,
            )
        )

    def _check_silence(self, now_s: float) -> None:
        silence_s = self._clock.at(now_s) - self._last_heard_s
        if silence_s > HEAD_SILENCE_LIMIT_S:
            raise HeadUnreachable(
                f"the head at {self.address} has been silent for {silence_s:.0f} s: giving up"
            )
        if silence_s > HEAD_SILENCE_WARNING_S and not self._warned:
            self._warned = True
            log.warning("no word from the head at %s for %.0f s", self.address, silence_s)

    def _receive(self, now_s: float) -> None:
        while True:
            try:
                with self._using_socket:
                    message = transport.receive(self._socket)
            except SchemaMismatch as error:
                raise JoinRefused(
                    f"the head at {self.address} cannot be joined: {error}"
                ) from error
            except WireError as error:
                self.rejections.count(error, now_s)
                continue
            if message is None:
                return
            listened_s = self._clock.at(now_s)
            if self._warned:
                silence_s = listened_s - self._last_heard_s
                log.info("word from the head at %s again after %.0f s", self.address, silence_s)
            self._last_heard_s, self._warned = listened_s, False
            if isinstance(message, Welcome):
                self._take_welcome(message, now_s)
            elif isinstance(message, Refused):
                raise JoinRefused(f"the head at {self.address} refused: {quoted(message.reason)}")
            elif isinstance(message, Directive) and self.joins:
                try:
                    check_directive(message)
                except MalformedMessage as error:
                    self.rejections.count(error, now_s)
                else:
                    self._take_directive(message)

    def _take_welcome(self, welcome: Welcome, now_s: float) -> None:
        try:
            self.manifest = check_welcome(welcome, self._role)
        except MalformedMessage as error:
            self.rejections.count(error, now_s)
            raise JoinRefused(
                f"the head at {self.address} sent a welcome that cannot be: {error}"
            ) from error
        self.welcome = welcome
        self._number = welcome.number
        self._joining = False
        self.ladder_size = welcome.ladder_size
        self._take_endpoints(welcome)
        self.joins += 1
        self.contacts += 1
        self._exporter.health.in_the_run = True
        log.info("joined the run %s as %s %d", self.manifest.run_id, self._role, welcome.number)

    def _take_directive(self, directive: Directive) -> None:
        if directive.session != self.welcome.session:
            # Of a membership that is over: a late answer, after this process has joined anew. To
            # join once more for it would end the new membership, whose messages are under way.
            return
        if directive.run_state == "rejoin":
            if not self._joining:
                log.info("the head does not know this process: joining again")
                self._send_join()
        else:
            self.stop_requested = directive.run_state == "stop"
            self.ladder_size = directive.ladder_size
            self._take_endpoints(directive)

    def _take_endpoints(self, message: Welcome | Directive) -> None:
        if message.replay_endpoint:
            self.replay_endpoint = transport.reachable(message.replay_endpoint, self.address)
        self.inference_endpoint = message.inference_endpoint
        self.relay_endpoint = message.relay_endpoint

    @property
    def weights_endpoint(self) -> str:
        """Of the head."""
        return transport.reachable(self.welcome.weights_endpoint, self.address)
