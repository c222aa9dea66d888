"""The replay server: a socket around a table.

One thread moves frames: everything that arrives is decoded and handed to `Table.replies`, and what
that and `Table.advance` give is sent. Bytes that cannot be decoded cost their sender an error
reply.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zmq

from common import codec, transport
from common.block_columns import block_bytes
from common.config import Config
from common.cut_off import CutOff
from common.descriptors import allow_descriptors
from common.errors import WireError
from common.exporter import NO_METRICS, MetricsOptions
from common.manifest import Manifest
from common.membership import JOIN_TIMEOUT_S, Membership
from common.messages import MAX_INSERT_BYTES, Ack, Batch, Drawn, Insert, Message, Serving
from common.metric_table import histogram
from common.metrics import Histogram, Telemetry, Values
from common.process import FOR_THE_USER, machine_id
from common.rate_limiter import RateLimiter
from common.rejections import Rejections
from common.security import refused_peers
from common.trace import NO_TRACE, Trace, trace_to
from common.wire_method import wire_method
from replay_server.flusher import NO_FLUSHER, Flusher
from replay_server.only_writer import only_writer
from replay_server.placement import in_memory, numbered
from replay_server.sampler import PrioritizedSampler, Sampler, UniformSampler, uniform_bytes
from replay_server.storage import Storage
from replay_server.sum_tree import tree_bytes
from replay_server.table import MAX_REQUESTED_BATCHES, Reply, Table

POLL_MS = 20
INSERTS_AHEAD = 16
"""Messages of one peer that are received before this process looks at them; others wait there."""
ANSWERS_AHEAD = 2 * MAX_REQUESTED_BATCHES
"""Messages kept for one peer that does not read them; more are dropped, and what it is owed. Nobody
honest has more than MAX_REQUESTED_BATCHES batches or acknowledgements to come, and ZeroMQ hears
only of every half of the queue that it was read."""
SAMPLED_PER_TURN, STORED_PER_TURN = 2, 4
"""Batches sampled, and inserts stored, before acknowledgements are sent and the head is heard
again. When both sides want more than there is, this is how they share it."""
ANSWERED_PER_TURN = 2
"""Requests taken in one turn: priorities ride on them, and parts of batches are made at once."""
RECEIVED_PER_TURN = 256
"""Inserts are taken in as they come, and stored in their turn: ZeroMQ gives a message of one peer
after that of another, and the learner is one of very many."""

TURN_S = 0.25
"""And no more after this: the head must hear of this process, whatever it costs to unpack them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What a replay server is told on its command line; all else comes from the head."""

    connect: str
    """The head's address."""
    bind: str = "tcp://127.0.0.1:0"
    """Where actors and learner reach this server; port 0 takes a free one."""
    storage: Path | None = None
    """File that holds the experience and survives this process, as `numbered` has it; none:
    memory."""
    number: int = -1
    """Take over from the process of this host that had this number and died; −1: any."""
    metrics: MetricsOptions = NO_METRICS
    """Where Prometheus can scrape this process."""
    profile: Path | None = None
    """Directory to record the loop's phases in."""
    join_timeout_s: float = JOIN_TIMEOUT_S
    """How long it waits to be taken in."""
    advertise: str = ""
    """Where others reach this server, if that is not where it listens."""
    alone: bool = False
    """This host never has two replay servers: take over from whichever was here and died."""


def build_table(
    manifest: Manifest,
    path: Path | None,
    incarnation: tuple[int, int] = (0, 0),
    rejections: Rejections | None = None,
    method: str = "none",
) -> Table:
    """The table a manifest describes.

    Args:
        path: the storage file; None keeps the experience in memory.
        incarnation: of this server within the run, so that a restarted one draws other numbers.
        rejections, method: as of `Table`.

    Raises ConfigError for limiter settings that would deadlock, CheckpointError for a storage file
    of another shape.
    """
    config = manifest.config
    items = config.replay_slots * config.block_length
    nbytes = replay_bytes(manifest)
    log.info(
        "a replay of %s transitions takes %.3f GB %s (%.0f bytes each)",
        f"{items:,}", nbytes / 1e9, "of memory" if path is None else f"at {path}", nbytes / items,
        extra=FOR_THE_USER,
    )  # fmt: skip
    storage = Storage(
        manifest.spec, manifest.layout, config.replay_slots, path, beside=_sampler_bytes(config)
    )
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, 3, *incarnation]))
    sampler: Sampler = (
        PrioritizedSampler(items, config.priority_exponent, config.priority_epsilon, rng)
        if config.prioritized
        else UniformSampler(items, rng)
    )
    limiter = RateLimiter(
        config.samples_per_insert,
        config.server_min_size_to_sample,
        config.limiter_tolerance,
        config.batch_size,
    )
    return Table(
        storage,
        sampler,
        limiter,
        discount=config.discount,
        batch_size=config.batch_size,
        insert_window=config.insert_window,
        # A buffer for the blocks of an insert is larger than the insert.
        windows_bytes=config.actors
        * config.insert_window
        * block_bytes(manifest.spec, manifest.layout, config.envs_per_actor),
        method=method,
        rejections=rejections,
    )


def replay_bytes(manifest: Manifest) -> int:
    """What one replay server of the run keeps: its experience, and what draws from it."""
    config = manifest.config
    experience = block_bytes(manifest.spec, manifest.layout, config.replay_slots)
    return experience + _sampler_bytes(config)


def _sampler_bytes(config: Config) -> int:
    items = config.replay_slots * config.block_length
    return tree_bytes(items) if config.prioritized else uniform_bytes(items)


def run_replay_server(
    options: ReplayOptions,
    context: zmq.Context[zmq.Socket[bytes]],
    stop: threading.Event,
    ready: Callable[[str], None],
) -> None:
    """Serve until the head says stop or `stop` is set."""
    if options.advertise:
        transport.check_address(options.advertise)
    # Bound before joining: a busy port is this process's own trouble, not the run's.
    socket, endpoint = bind(context, options.bind)
    served_at = options.advertise or endpoint
    with (
        contextlib.closing(socket),
        Membership(
            context,
            options.connect,
            "replay_server",
            preferred_number=options.number,
            alone=options.alone,
            metrics=options.metrics,
        ) as membership,
        contextlib.ExitStack() as stack,
    ):
        manifest = membership.join(time.monotonic, stop, options.join_timeout_s)
        if manifest is None:
            return
        actors = manifest.config.actors
        allow_descriptors(actors, f"the replay server of a run with {actors} actors")
        number, servers = membership.welcome.number, manifest.config.replay_servers
        path = None if options.storage is None else numbered(options.storage, number, servers)
        stack.enter_context(only_writer(path))
        since_s = time.perf_counter()
        table = stack.enter_context(
            contextlib.closing(
                build_table(
                    manifest,
                    path,
                    (membership.welcome.epoch, membership.welcome.incarnation),
                    membership.rejections,
                    method=wire_method(served_at, manifest.config.compression),
                )
            )
        )
        flusher = stack.enter_context(
            Flusher(_on_disk(path), manifest.config.replay_flush_period_s)
        )
        log.info("the replay is there after %.2f s", time.perf_counter() - since_s)
        log.info("restored transitions: %d", table.sampler.size)
        membership.send(_serving(served_at, table, membership))
        ready(endpoint)
        track = "replay_server" if servers == 1 else f"replay_server-{number}"
        trace = trace_to(options.profile, track)
        serve(socket, served_at, table, membership, stop, trace, flusher)
        trace.close()
        table.storage.flush()


def bind(context: zmq.Context[zmq.Socket[bytes]], address: str) -> tuple[zmq.Socket[bytes], str]:
    """The socket for `serve`, and its endpoint; raises as `transport.bind`."""
    socket, endpoint = transport.bind(
        context,
        zmq.ROUTER,
        address,
        queue_messages=ANSWERS_AHEAD,
        # With keys a frame is some bytes longer.
        max_message_bytes=MAX_INSERT_BYTES + (1 << 10),
        received_messages=INSERTS_AHEAD,
    )
    # Replies to a peer that is gone are an error here instead of silently dropped.
    socket.router_mandatory = True
    return socket, endpoint


def _on_disk(path: Path | None) -> Path | None:
    return None if path is None or in_memory(path) else path


def serve(
    socket: zmq.Socket[bytes],
    endpoint: str,
    table: Table,
    membership: Membership,
    stop: threading.Event,
    trace: Trace = NO_TRACE,
    flusher: Flusher = NO_FLUSHER,
) -> None:
    """Answer what arrives at `socket` until the head says stop or `stop` is set. `endpoint`: where
    others are told that it listens."""
    contacts = membership.contacts
    batch_s = histogram("replay_batch_seconds")
    telemetry = Telemetry(
        lambda: {
            **table_values(table, flusher),
            "replay_refused_peers_total": refused_peers(socket.context),
        },
        [*table.histograms, batch_s],
    )
    cut_off = CutOff(socket)
    turn = _Turn(socket, table, trace, batch_s)
    while not (stop.is_set() or membership.stop_requested):
        membership.poll(time.monotonic(), telemetry)
        cut_off.poll()
        if membership.contacts != contacts:
            contacts = membership.contacts
            membership.send(_serving(endpoint, table, membership))
        if not turn.take():
            trace.phase("waiting")
            transport.wait(socket, POLL_MS)
            table.account(time.monotonic())


class _Turn:
    """What is done at the socket between two looks at the head, again and again."""

    def __init__(
        self, socket: zmq.Socket[bytes], table: Table, trace: Trace, batch_s: Histogram
    ) -> None:
        self._socket, self._table, self._trace, self._batch_s = socket, table, trace, batch_s
        self._acks: dict[tuple[bytes, int], Ack] = {}
        """They wait for the turn's end: of several to one actor the last says all."""

    def take(self) -> bool:
        """Whether there was anything to do."""
        received = answered = stored = 0
        end_s = time.monotonic() + TURN_S
        while received < RECEIVED_PER_TURN and answered < ANSWERED_PER_TURN:
            self._trace.phase("receiving")
            frames = transport.receive_frames(self._socket)
            if frames is None:
                break
            received += 1
            answered += self._answer(frames)
            # At once, if it may be: an insert's images were unpacked to look at them.
            if stored < STORED_PER_TURN:
                self._trace.phase("inserting")
                stored += self._say(self._table.advance(1, 0))
            if time.monotonic() > end_s:
                break
        self._trace.phase("priorities, sampling")
        served = self._say(self._table.advance(0, SAMPLED_PER_TURN))
        self._trace.phase("inserting")
        # What is stored may be what a learner waits for.
        batches = 0 if served else SAMPLED_PER_TURN
        said = self._say(self._table.advance(STORED_PER_TURN - stored, batches))
        self._trace.phase("sending")
        for (peer, _), ack in self._acks.items():
            _send(self._socket, self._table, peer, ack)
        self._acks.clear()
        return bool(received or served or said)

    def _answer(self, frames: list[codec.Frame]) -> bool:
        """Whether it was more than an insert that is to be stored."""
        peer = bytes(frames[0])
        now_s = time.monotonic()
        try:
            message = codec.decode(frames[1:])
        except WireError as error:
            return bool(self._say([(peer, self._table.reject(None, error, now_s))]))
        is_insert = isinstance(message, Insert)
        self._trace.phase("inserting" if is_insert else "priorities, sampling")
        since_s = time.perf_counter()
        return bool(self._say(self._table.replies(peer, message, now_s), since_s)) or not is_insert

    def _say(self, replies: Iterable[Reply], since_s: float | None = None) -> int:
        """How many there were. `since_s`: when the first was begun; None: now."""
        spoke = 0
        if since_s is None:
            since_s = time.perf_counter()
        for peer, reply in replies:
            spoke += 1
            if isinstance(reply, Ack):
                last = self._acks.get((peer, reply.session))
                # One for an insert that was sent again may come behind one for a later insert.
                if last is None or last.sequence < reply.sequence:
                    self._acks[peer, reply.session] = reply
                since_s = time.perf_counter()
                continue
            self._trace.phase("sending")
            if isinstance(reply, Batch | Drawn):
                self._batch_s.observe(time.perf_counter() - since_s)
            _send(self._socket, self._table, peer, reply)
            since_s = time.perf_counter()
            self._trace.phase("priorities, sampling")
        return spoke


def _send(socket: zmq.Socket[bytes], table: Table, peer: bytes, message: Message) -> None:
    if not transport.send(socket, message, prefix=(peer,)):
        table.forget(peer)


def _serving(endpoint: str, table: Table, membership: Membership) -> Serving:
    path = table.storage.path
    return Serving(
        membership.welcome.session,
        endpoint,
        machine_id(),
        "" if path is None else str(path.resolve()),
    )


def table_values(table: Table, flusher: Flusher = NO_FLUSHER) -> Values:
    """The table's counters and gauges."""
    counters, limiter, storage = table.counters, table.limiter, table.storage
    return {
        "replay_transitions": table.sampler.size,
        "replay_fill": min((storage.next_number - 1) / storage.slots, 1.0),
        "replay_inserted_transitions_total": limiter.inserts,
        "replay_sampled_transitions_total": limiter.samples,
        "replay_inserted_blocks_total": counters.inserted_blocks,
        "replay_duplicates_total": counters.duplicates,
        **table.rejections.values(),
        "replay_priorities_total": counters.updates,
        "replay_stale_priorities_total": counters.stale_updates,
        "replay_torn_blocks_total": storage.torn,
        "replay_unflushed_seconds": flusher.unflushed_s,
        "replay_limiter_error": limiter.error,
        "replay_insert_blocked_seconds_total": counters.insert_blocked_s,
        "replay_sample_blocked_seconds_total": counters.sample_blocked_s,
    }
