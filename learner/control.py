"""The head's sockets, in a thread beside the training loop.

A ROUTER hears joins, heartbeats, evaluation results and status requests; an XPUB sends weights, and
sends the current version again to whoever subscribes late. The training loop only leaves things to
be sent and picks up what came: it never waits for a peer.
"""

import logging
import threading
import time
from collections.abc import Callable

import torch
import zmq

from common import codec, transport
from common.cut_off import CutOff
from common.errors import AddressInUse, WireError
from common.health import Health
from common.listening_clock import ListeningClock
from common.manifest import Manifest
from common.messages import (
    ACTING,
    EVALUATION,
    EvalResult,
    Message,
    NamedTensors,
    Serving,
    Status,
    StatusRequest,
    Weights,
)
from common.metrics import Telemetry
from common.rejections import Rejections
from common.security import refused_peers
from common.subscriptions import Subscriptions, bind_publisher
from common.trace import Trace
from learner.admission import FloodGate
from learner.announcement import Announcement
from learner.feed import Feed, open_feed
from learner.head import Head, Reply
from learner.recorder import Recorder
from learner.report import Report
from learner.status import LearnerCounters
from learner.targets import Targets
from learner.wakeup import Wakeup

POLL_MS = 100
"""How long one wait for messages lasts."""
ASKED_POLL_MS = 5
"""The same while somebody waits for a status."""
MAX_GATHER_MS = 50
MEMBERS_PER_GATHER_MS = 20
"""Between two turns of which the first found something to read lies a pause, the longer the more
members there are: their heartbeats cost less together. What the training loop leaves to be sent
does not wait, and neither does anything in a small run."""
RECORD_PERIOD_S = 1.0
MESSAGES_PER_TURN = 200
TURN_S = 0.25
"""No message is taken after so long: weights, records and who fell silent are waiting as well."""
MAX_LOOK_S = 1.0
"""Longer than a turn, if this thread gets its processor: more is nobody's silence."""
SUBSCRIPTIONS_PERIOD_S = 0.01
"""Subscribers are looked at so often while members' messages are many."""
STATUS_PAUSE = 20
"""After a status, for so many times what it took to make and to send: in a run of thousands, whose
status is long, whoever asks all the time takes a twentieth of the thread."""
MAX_ASKING = 1_000
"""Who wait for one; others ask again."""
WATCHES_S = 1.0
"""Whoever was told a status so short a time before the end is told how the run ended, unasked."""
CONTROL_BYTES = 2 << 20
"""Largest frame that a member may send: a header, or the episodes of a heartbeat."""
RECEIVED_MESSAGES = 100
"""Of each member that wait to be looked at. One sends a few a second; with a flood of members, or
of large frames, more would only be memory."""

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
        epoch: int,
        telemetry: Telemetry,
        recorder: Recorder,
        targets: Targets,
        announcement: Announcement,
        health: Health,
    ) -> None:
        self._manifest = manifest
        self._context = context
        self._targets = targets
        self._announcement = announcement
        self._health = health
        self._next_record_s = 0.0
        self._counters = counters
        self._control, self.endpoint = transport.bind(
            context,
            zmq.ROUTER,
            bind,
            max_message_bytes=CONTROL_BYTES,
            received_messages=RECEIVED_MESSAGES,
        )
        self._control.router_mandatory = True
        try:
            self._weights, weights_endpoint = _bind_weights(
                context, weights_addresses(bind, self.endpoint)
            )
        except Exception:
            self._control.close()
            raise
        self._cut_off = CutOff(self._control, self._weights)
        self._head = Head(manifest, weights_endpoint, epoch)
        self._subscriptions = Subscriptions(
            self._weights, (ACTING, EVALUATION), self._head.rejections
        )
        self._next_subscriptions_s = 0.0
        self._gate = FloodGate()
        self._clock = ListeningClock(time.monotonic(), MAX_LOOK_S)
        self._asking: dict[bytes, None] = {}
        """Who waits for a status, in the order in which they asked."""
        self._watching: dict[bytes, float] = {}
        """When who was told one, of late."""
        self._next_status_s = 0.0
        self._report = Report(
            self._head,
            manifest,
            counters,
            wall_s,
            telemetry,
            recorder,
            lambda: refused_peers(context),
        )
        self.head_telemetry = self._report.head_telemetry
        self._current: dict[bytes, Weights] = {}
        self._outbox: dict[bytes, Weights] = {}
        self._run_state = "run"
        self._lock = threading.Lock()
        self._evaluations: list[EvalResult] = []
        self._replay_servers: dict[int, Serving] = {}
        self._replay_known = threading.Event()
        self._evaluator: int | None = None
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
        self._report.note_score(facts)

    def open_feed(
        self,
        timeout_s: float,
        device: torch.device,
        trace: Trace,
        thread_trace: Trace,
        rejections: Rejections,
    ) -> Feed | None:
        """As `learner.feed.open_feed`, from the replay servers; None when none is known in time."""
        if self.failure is not None:
            raise self.failure
        self._replay_known.wait(timeout_s)
        # Read once: the control thread replaces them whenever members come and go.
        servers = self._followed = self._replay_servers
        if not servers:
            return None
        return open_feed(
            self._context, servers, self._manifest, device, trace, thread_trace, rejections
        )

    def keep_up(self, feed: Feed) -> None:
        """Have the feed follow replay servers that came and went."""
        if self._replay_servers is not self._followed:
            self._followed = self._replay_servers
            feed.follow(self._followed)

    @property
    def evaluator(self) -> int | None:
        return self._evaluator

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
                poller.poll(ASKED_POLL_MS if self._asking else POLL_MS)
                if self._turn(time.monotonic()):
                    gather_ms = len(self._head.members) // MEMBERS_PER_GATHER_MS
                    transport.wait(self._wakeup.woken, min(gather_ms, MAX_GATHER_MS))
            self._tell_end(time.monotonic())
        except BaseException as error:
            log.exception("the control thread failed")
            self.failure = error
        finally:
            self._report.write_records()
            failed = self.failure is not None or self._counters.phase == "failed"
            if not failed:
                self._targets.withdraw()
            self._announcement.withdraw()
            for socket in (self._control, self._weights):
                socket.close()

    def _turn(self, now_s: float) -> bool:
        """Whether there was a message, and no more are waiting."""
        self._health.turned("control")
        self._wakeup.clear()
        self._cut_off.poll()
        self._serve_subscribers()
        with self._lock:
            run_state = self._run_state
        if run_state != self._head.run_state:
            # The members are about to leave: this is the last status with all of them.
            self._announcement.tell(now_s, self._report.status, due=True)
            self._send(self._head.set_run_state(run_state))
        messages, more, heard_s = 0, True, self._clock.at(now_s)
        while messages < MESSAGES_PER_TURN and time.monotonic() - now_s < TURN_S:
            frames = transport.receive_frames(self._control)
            if frames is None:
                more = False
                break
            messages += 1
            self._send(self._answer(frames, heard_s))
            if time.monotonic() >= self._next_subscriptions_s:
                self._serve_subscribers()
        self._tell_status()
        if now_s >= self._next_record_s:
            self._next_record_s = now_s + RECORD_PERIOD_S
            self._gate.open()
            self._send(self._head.tick(heard_s))
            self._report.observe_waiting(now_s)
            self._report.write_records()
            self._targets.tell(self._head.members.values())
            self._announcement.tell(now_s, self._report.status)
        evaluations = self._head.take_evaluations()
        if evaluations:
            with self._lock:
                self._evaluations += evaluations
        self._replay_servers = self._head.replay_servers
        self._evaluator = self._head.evaluator
        (self._replay_known.set if self._replay_servers else self._replay_known.clear)()
        (self._nobody_left.clear if self._head.members else self._nobody_left.set)()
        return messages > 0 and not more

    def _answer(self, frames: list[codec.Frame], now_s: float) -> list[Reply]:
        peer = bytes(frames[0])
        try:
            self._gate.check(peer)
        except WireError as error:
            self._head.rejections.count(error, now_s)
            return []
        try:
            message = codec.decode(frames[1:])
        except WireError as error:
            return [(peer, self._head.refuse(error, now_s))]
        if isinstance(message, StatusRequest):
            if len(self._asking) < MAX_ASKING:
                self._asking[peer] = None
            return []
        return self._head.handle(peer, message, now_s)

    def _tell_status(self) -> None:
        """Answer all who asked how the run goes, unless that took much of this thread's time of
        late: then they wait, and are answered together, once each."""
        began_s = time.monotonic()
        if not self._asking or began_s < self._next_status_s:
            return
        status = Status(self._report.status().to_plain())
        for peer in self._asking:
            self._send_one(peer, status)
        self._watching = self._watching_at(began_s) | dict.fromkeys(self._asking, began_s)
        self._asking.clear()
        ended_s = time.monotonic()
        self._next_status_s = ended_s + STATUS_PAUSE * (ended_s - began_s)

    def _watching_at(self, now_s: float) -> dict[bytes, float]:
        return {peer: at_s for peer, at_s in self._watching.items() if now_s - at_s <= WATCHES_S}

    def _tell_end(self, now_s: float) -> None:
        """Who watch the run hear that it is over, rather than nothing more."""
        self._asking |= dict.fromkeys(self._watching_at(now_s))
        self._next_status_s = now_s
        self._tell_status()

    def _send(self, replies: list[Reply]) -> None:
        for peer, message in replies:
            # A peer that is gone will be dropped for its silence.
            self._send_one(peer, message)

    def _send_one(self, peer: bytes, message: Message) -> None:
        if not transport.send(self._control, message, prefix=(peer,)):
            log.debug("could not reach a peer with a %s", message.kind)

    def _serve_subscribers(self) -> None:
        # What is newer first: a slow subscriber has no room for both.
        self._publish_outbox()
        self._serve_late_subscribers()
        self._next_subscriptions_s = time.monotonic() + SUBSCRIPTIONS_PERIOD_S

    def _publish_outbox(self) -> None:
        with self._lock:
            outbox, self._outbox = self._outbox, {}
        for topic, weights in outbox.items():
            self._current[topic] = weights
            transport.send(self._weights, weights, prefix=(topic,))

    def _serve_late_subscribers(self) -> None:
        # Every message goes to all subscribers of its topic: many who come at once need only one.
        for topic in self._subscriptions.take(time.monotonic()):
            if topic in self._current:
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
    return bind_publisher(context, addresses[-1])
