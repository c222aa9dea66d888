"""The head's sockets, in a thread beside the training loop.

A ROUTER hears joins, heartbeats, evaluation results and status requests; an XPUB sends weights, and
sends the current version again to whoever subscribes late. The training loop only leaves things to
be sent and picks up what came: it never waits for a peer.
"""

import logging
import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import zmq

from common import codec, transport
from common.block_columns import block_bytes
from common.cut_off import CutOff
from common.errors import AddressInUse, SchemaMismatch, WireError
from common.health import Health
from common.manifest import Manifest
from common.messages import (
    EvalResult,
    Message,
    NamedTensors,
    Refused,
    Serving,
    Status,
    StatusRequest,
    Weights,
)
from common.metric_table import histogram
from common.metrics import Telemetry, Values
from common.security import refused_peers
from learner.actors_wanted import ActorsWanted
from learner.announcement import Announcement
from learner.head import Head, Reply
from learner.recorder import Record, Recorder
from learner.status import LearnerCounters, RunStatus
from learner.targets import Targets
from learner.wakeup import Wakeup

POLL_MS = 100
MAX_GATHER_MS = 50
MEMBERS_PER_GATHER_MS = 20
"""Between two turns of which the first found something to read lies a pause, the longer the more
members there are: their heartbeats cost less together. What the training loop leaves to be sent
does not wait, and neither does anything in a small run."""
RECORD_PERIOD_S = 1.0
LEARNER, HEAD = -1, -2
"""Sessions of this process's own metrics; those of members are not negative."""
MESSAGES_PER_TURN = 200
WEIGHTS_QUEUE_MESSAGES = 4
"""Versions queued for a slow subscriber before newer ones are dropped for it."""

log = logging.getLogger(__name__)


class ControlPlane:
    """Start, then use from the training loop; `close` at the end.

    Args:
        bind: address of the control socket. The weights socket takes the next port on the same
            interface, or a free one where that is taken or `bind` leaves the choice.
        counters: what the training loop shows of itself.
        wall_s: seconds since the run began.
        epoch: starts of the learner within the run before this one.
        telemetry: the training loop's own metrics.
        recorder: takes the run's metrics once a second.
        targets: tells Prometheus where to scrape.
        announcement: tells others where to ask, and what they would have heard.
        health: told that the control thread is alive.

    Raises:
        AddressInUse, ConfigError: the sockets cannot be bound.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        bind: str,
        manifest: Manifest,
        counters: LearnerCounters,
        wall_s: Callable[[], float],
        *,
        epoch: int = 0,
        telemetry: Telemetry | None = None,
        recorder: Recorder | None = None,
        targets: Targets | None = None,
        announcement: Announcement | None = None,
        health: Health | None = None,
    ) -> None:
        self._manifest = manifest
        self._telemetry = telemetry or Telemetry(dict)
        self._recorder = recorder
        self._actor_lag = histogram("head_actor_lag_updates")
        self._actors_wanted = ActorsWanted()
        self.head_telemetry = Telemetry(self._values, [self._actor_lag])
        """The head's own metrics, those of the run as a whole."""
        self._targets = targets
        self._announcement = announcement or Announcement(None)
        self._health = health or Health()
        self._next_record_s = 0.0
        self._counters = counters
        self._wall_s = wall_s
        self._control, self.endpoint = transport.bind(context, zmq.ROUTER, bind)
        self._control.router_mandatory = True
        try:
            self._weights, weights_endpoint = _bind_weights(
                context, weights_addresses(bind, self.endpoint)
            )
        except Exception:
            self._control.close()
            raise
        # Tell about every subscription, not only a topic's first: each wants the current version.
        self._weights.xpub_verbose = True
        self._cut_off = CutOff((self._control, self.endpoint), (self._weights, weights_endpoint))
        self._head = Head(manifest, weights_endpoint, epoch)
        self._current: dict[bytes, Weights] = {}
        self._outbox: dict[bytes, Weights] = {}
        self._rejected = 0
        self._run_state = "run"
        self._lock = threading.Lock()
        self._evaluations: list[EvalResult] = []
        self._scores: list[dict[str, float]] = []
        self._replay_servers: list[Serving] = []
        self._replay_known = threading.Event()
        self._evaluator_is_there = False
        self._nobody_left = threading.Event()
        self._stopping = threading.Event()
        self.failure: BaseException | None = None
        self._wakeup = Wakeup(context)
        self._announcement.announce(self.endpoint)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ called by the training loop

    def publish(self, topic: bytes, epoch: int, version: int, tensors: NamedTensors) -> None:
        """Broadcast a version; one that was not sent yet is replaced."""
        with self._lock:
            self._outbox[topic] = Weights(epoch, version, tensors)
        self._wakeup.signal()

    def take_evaluations(self) -> list[EvalResult]:
        """Results that came since the last call. Raises what ended the control thread."""
        if self.failure is not None:
            raise self.failure
        if not self._evaluations:
            return []
        with self._lock:
            taken, self._evaluations = self._evaluations, []
        return taken

    def note_score(self, facts: dict[str, float]) -> None:
        """An evaluation was recorded: it belongs into the run's metrics."""
        with self._lock:
            self._scores.append(facts)

    def replay_server(self, timeout_s: float) -> Serving | None:
        """A replay server, or None when none is known in time."""
        if self.failure is not None:
            raise self.failure
        self._replay_known.wait(timeout_s)
        # Read once: the control thread replaces the list whenever members come and go.
        servers = self._replay_servers
        return servers[0] if servers else None

    @property
    def has_evaluator(self) -> bool:
        return self._evaluator_is_there

    def stop_members(self, timeout_s: float) -> None:
        """Tell every member to stop and wait until all have left, or `timeout_s` is over."""
        with self._lock:
            self._run_state = "stop"
        self._wakeup.signal()
        self._nobody_left.wait(timeout_s)

    def close(self) -> None:
        self._stopping.set()
        self._wakeup.signal()
        self._thread.join()
        self._wakeup.close()

    # ------------------------------------------------------------------------ the thread's own part

    def _run(self) -> None:
        poller = zmq.Poller()
        for socket in (self._control, self._weights, self._wakeup.woken):
            poller.register(socket, zmq.POLLIN)
        try:
            while not self._stopping.is_set():
                poller.poll(POLL_MS)
                if self._turn(time.monotonic()):
                    gather_ms = len(self._head.members) // MEMBERS_PER_GATHER_MS
                    transport.wait(self._wakeup.woken, min(gather_ms, MAX_GATHER_MS))
        except BaseException as error:
            log.exception("the control thread failed")
            self.failure = error
        finally:
            self._write_records()
            failed = self.failure is not None or self._counters.phase == "failed"
            if self._targets is not None and not failed:
                self._targets.withdraw()
            self._announcement.withdraw()
            for socket in (self._control, self._weights):
                socket.close()

    def _turn(self, now_s: float) -> bool:
        """Whether there was a message, and no more are waiting."""
        self._health.turned("control")
        self._wakeup.clear()
        self._cut_off.poll()
        self._publish_outbox()
        self._serve_late_subscribers()
        with self._lock:
            run_state = self._run_state
        if run_state != self._head.run_state:
            # The members are about to leave: this is the last status with all of them.
            self._announcement.tell(now_s, self._status, due=True)
            self._send(self._head.set_run_state(run_state))
        messages = 0
        while messages < MESSAGES_PER_TURN:
            frames = transport.receive_frames(self._control)
            if frames is None:
                break
            messages += 1
            self._send(self._answer(frames, now_s))
        if now_s >= self._next_record_s:
            self._next_record_s = now_s + RECORD_PERIOD_S
            self._send(self._head.tick(now_s))
            self._write_records()
            if self._targets is not None:
                self._targets.tell(self._head.members.values())
            self._announcement.tell(now_s, self._status)
        evaluations = self._head.take_evaluations()
        if evaluations:
            with self._lock:
                self._evaluations += evaluations
        self._replay_servers = self._head.replay_servers
        self._evaluator_is_there = self._head.has_evaluator
        (self._replay_known.set if self._replay_servers else self._replay_known.clear)()
        (self._nobody_left.clear if self._head.members else self._nobody_left.set)()
        return 0 < messages < MESSAGES_PER_TURN

    def _answer(self, frames: list[codec.Frame], now_s: float) -> list[Reply]:
        peer = bytes(frames[0])
        try:
            message = codec.decode(frames[1:])
        except SchemaMismatch as error:
            self._rejected += 1
            log.warning("refused a peer: %s", error)
            return [(peer, Refused(str(error)))]
        except WireError as error:
            self._rejected += 1
            log.debug("a message that cannot be read: %s", error)
            return [(peer, Refused(f"this message cannot be read: {error}"))]
        if isinstance(message, StatusRequest):
            return [(peer, Status(self._status().to_plain()))]
        return self._head.handle(peer, message, now_s)

    def _write_records(self) -> None:
        """One for now, and one more for each further score that came since the last."""
        head, counters = self._head, self._counters
        head.metrics.add(LEARNER, *self._telemetry.snapshot())
        self._actor_lag.observe_all(self._lags())
        head.metrics.add(HEAD, *self.head_telemetry.snapshot())
        with self._lock:
            scores, self._scores = self._scores, []
        returns, lengths = head.take_episodes()
        values = head.metrics.record()
        noted: list[dict[str, float] | None] = [*scores] or [None]
        for score in noted:
            record = Record(
                time.time(),
                self._wall_s(),
                counters.env_steps,
                counters.updates,
                values,
                returns,
                lengths,
                score,
            )
            if self._recorder is not None:
                self._recorder.offer(record)
            returns, lengths = [], []

    def _values(self) -> Values:
        head, returns = self._head, self._head.recent_returns
        lags = self._lags()
        values: Values = {
            "head_actors": len(head.of_role("actor")),
            "head_lost_members_total": sum(head.lost.values()),
            "head_rejected_messages_total": self._rejected,
            "head_refused_peers_total": refused_peers(self._control.context),
            "head_dropped_records_total": self._recorder.dropped if self._recorder else 0,
        }
        if returns:
            values["head_training_return"] = sum(returns) / len(returns)
        wanted = self._actors_wanted.see(
            time.monotonic(),
            len(lags),
            head.metrics.total("actor_blocked_seconds_total"),
            self._counters.waited_s,
        )
        if wanted is not None:
            values["head_actors_wanted"] = wanted
        if len(lags):
            values["head_policy_lag_updates"] = float(lags.mean())
        return values

    def _lags(self) -> npt.NDArray[np.float64]:
        """Updates by which each actor that has told its weights' version is behind."""
        values = [m.values for m in self._head.of_role("actor")]
        versions = [v["actor_weights_version"] for v in values if "actor_weights_version" in v]
        return np.maximum(self._counters.updates - np.array(versions, np.float64), 0.0)

    def _status(self) -> RunStatus:
        """How the run goes now."""
        manifest, config, head = self._manifest, self._manifest.config, self._head
        returns = head.recent_returns
        return RunStatus(
            run_id=self._manifest.run_id,
            env=config.env,
            wall_s=self._wall_s(),
            total_env_steps=config.total_env_steps,
            target_return=config.target_return,
            samples_per_insert=config.samples_per_insert,
            replay_capacity=config.replay_slots * config.block_length,
            replay_bytes=block_bytes(manifest.spec, manifest.layout, config.replay_slots),
            learner=self._counters,
            train_return=sum(returns) / len(returns) if returns else None,
            episodes=head.episodes,
            members=[
                {
                    "role": m.role,
                    "number": m.number,
                    "host": m.host,
                    "pid": m.pid,
                    "num_envs": m.num_envs,
                    "values": m.values,
                    # Keys are text: the wire has no others.
                    "returns": {str(env): sum(r) / len(r) for env, r in m.returns.items()},
                    "first_env_index": m.first_env_index,
                }
                for m in head.members.values()
            ],
            histograms={name: h.tolist() for name, h in head.metrics.histograms.items()},
            lost=head.lost,
            rejected=self._rejected,
        )

    def _send(self, replies: list[Reply]) -> None:
        for peer, message in replies:
            # A peer that is gone will be dropped for its silence.
            self._send_one(peer, message)

    def _send_one(self, peer: bytes, message: Message) -> None:
        if not transport.send(self._control, message, prefix=(peer,)):
            log.debug("could not reach a peer with a %s", message.kind)

    def _publish_outbox(self) -> None:
        with self._lock:
            outbox, self._outbox = self._outbox, {}
        for topic, weights in outbox.items():
            self._current[topic] = weights
            transport.send(self._weights, weights, prefix=(topic,))

    def _serve_late_subscribers(self) -> None:
        # Every message goes to all subscribers of its topic: many who come at once need only one.
        topics = set()
        while (frames := transport.receive_frames(self._weights)) is not None:
            event = bytes(frames[0])
            if event[:1] == b"\x01":
                topics.add(event[1:])
        for topic in topics & self._current.keys():
            transport.send(self._weights, self._current[topic], prefix=(topic,))


def weights_addresses(bind: str, control_endpoint: str) -> list[str]:
    """Where weights may be published, given the control socket's address, first choice first."""
    if not bind.startswith("tcp://"):
        return [f"{control_endpoint}-weights"]
    host, _, port = bind.rpartition(":")
    anywhere = f"{host}:0"
    return [f"{host}:{int(port) + 1}", anywhere] if port.isdigit() and int(port) else [anywhere]


def _bind_weights(
    context: zmq.Context[zmq.Socket[bytes]], addresses: list[str]
) -> tuple[zmq.Socket[bytes], str]:
    for address in addresses[:-1]:
        try:
            return _bind_weights(context, [address])
        except AddressInUse:
            log.warning("%s is in use: publishing weights from a free port", address)
    return transport.bind(context, zmq.XPUB, addresses[-1], queue_messages=WEIGHTS_QUEUE_MESSAGES)
