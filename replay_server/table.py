"""The replay table: messages in, replies out. No sockets, no clock.

    table = storage (where blocks lie) × sampler (which are drawn) × rate limiter (when)

Every message a peer can send goes through `Table.replies`, which gives what is to be answered at
once. Inserts wait in order, and sample requests as credit, until `Table.advance` stores and serves
them as far as the limiter lets it, so that the error never leaves its band. What is acknowledged is
stored.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.block_columns import INSERTED, SAMPLED
from common.errors import MalformedMessage, Reason, WireError
from common.messages import (
    Ack,
    Batch,
    Drawn,
    Insert,
    Message,
    PartRequest,
    Rejected,
    SampleRequest,
)
from common.metric_table import histogram
from common.rate_limiter import RateLimiter
from common.rejections import Rejections
from common.transitions import find_transitions
from replay_server.checks import InsertCheck, check_priorities
from replay_server.frame_packer import FramePacker
from replay_server.sampler import Sampler
from replay_server.sessions import Session, Sessions
from replay_server.storage import Storage
from replay_server.waiting import MIN_WAITING_BYTES, Waiting, WaitingInserts, held_bytes

Reply = tuple[bytes, Message]
Sampled = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Items, and the probability with which each was drawn."""

MAX_REQUESTED_BATCHES = 64
"""Batches a learner may be owed at once."""
MAX_GIVEN_UP = 4
"""Windows of inserts of one actor that may wait although it has been elsewhere since."""
OBSERVED_PERIOD_S = 0.05
"""Of the batches, and of the messages with priorities, that come within so long, one is counted in
the histograms."""
MAX_LEARNERS = 1_000
"""Peers that may be owed batches: who asks and vanishes is remembered until it is his turn."""
_ALL = 1 << 62
"""More than there ever are."""
_NOTHING = np.empty(0, np.int64), np.empty(0)


@dataclass(slots=True)
class _Owed:
    """What a learner asked for and has not got yet."""

    batches: int = 0
    keys_only: bool = False


@dataclass(slots=True)
class TableCounters:
    """Cumulative since this process began."""

    inserted_blocks: int = 0
    duplicates: int = 0
    """Inserts that had been stored before and were only acknowledged."""
    updates: int = 0
    """Priorities written."""
    stale_updates: int = 0
    """Priorities for transitions that had been evicted meanwhile."""
    insert_blocked_s: float = 0.0
    """Time during which actors waited for the learner, in seconds."""
    sample_blocked_s: float = 0.0
    """Time during which the learner waited for actors, in seconds."""


class Table:
    """One prioritised replay.

    Args:
        discount: γ per environment step, for the n-step returns of batches.
        batch_size: N, transitions in each batch.
        insert_window: inserts an actor may have unacknowledged.
        windows_bytes: what all actors of the run together may have unacknowledged.
        method: for batches' frames, as of `FramePacker`.
        rejections: where messages that are not accepted are counted.
    """

    def __init__(
        self,
        storage: Storage,
        sampler: Sampler,
        limiter: RateLimiter,
        *,
        discount: float,
        batch_size: int,
        insert_window: int,
        windows_bytes: int = 0,
        method: str = "none",
        rejections: Rejections | None = None,
    ) -> None:
        self.rejections = rejections or Rejections("replay_rejected_messages_total")
        self.storage, self.sampler, self.limiter = storage, sampler, limiter
        self.counters = TableCounters()
        self._discount = discount
        self._batch_size = batch_size
        self._insert_window = insert_window
        self._frames = FramePacker(storage, method)
        self._checks = InsertCheck(storage)
        # As much as the replay itself, or as the run's actors may have under way.
        self._waiting = WaitingInserts(max(storage.nbytes, MIN_WAITING_BYTES, windows_bytes))
        self._sessions = Sessions()
        self._owed: OrderedDict[bytes, _Owed] = OrderedDict()
        self._now_s = 0.0
        """Of the newest message, or of the newest look at the waiting times."""
        self._insert_s = histogram("replay_insert_seconds")
        self._sampled_age = histogram("replay_sampled_age")
        self._new_priority = histogram("replay_new_priority")
        self._next_age_s = self._next_priorities_s = 0.0
        """When they are next observed."""
        self.histograms = (self._insert_s, self._sampled_age, self._new_priority)
        self._handlers: dict[type[Message], Callable[[bytes, Message], list[Reply]]] = {
            Insert: self._on_insert,  # type: ignore[dict-item]
            SampleRequest: self._on_sample_request,  # type: ignore[dict-item]
            PartRequest: self._on_part_request,  # type: ignore[dict-item]
        }
        self._restore()

    def handle(self, peer: bytes, message: Message, now_s: float) -> list[Reply]:
        """As `replies`, and then all of `advance`."""
        return [*self.replies(peer, message, now_s), *self.advance()]

    def replies(self, peer: bytes, message: Message, now_s: float) -> list[Reply]:
        """Take a message from a peer; returns what is to be sent at once. What it asks for is up to
        `advance`: a learner's request that came behind many inserts need not wait for them.

        A message that breaks the contract changes nothing and is answered by Rejected; so is a
        request for which there is no room, but for its priorities.

        Args:
            now_s: a monotonic time in seconds, for the waiting times alone.
        """
        self.account(now_s)
        handler = self._handlers.get(type(message))
        try:
            if handler is None:
                raise MalformedMessage(
                    f"a replay server does not take {message.kind!r}", Reason.UNKNOWN_KIND
                )
            return handler(peer, message)
        except MalformedMessage as error:
            return [(peer, self.reject(message, error, now_s))]

    def reject(self, message: Message | None, error: WireError, now_s: float) -> Rejected:
        """Count a refusal and say it. `message` None: it could not even be decoded."""
        self.rejections.count(error, now_s)
        if isinstance(message, Insert):
            return Rejected(message.session, message.sequence, str(error))
        return Rejected(-1, -1, str(error))

    def account(self, now_s: float) -> None:
        """Add the time since the last call to whoever waits."""
        if self._now_s:
            elapsed_s = now_s - self._now_s
            blocked = self._waiting and not self.limiter.can_insert()
            self.counters.insert_blocked_s += elapsed_s if blocked else 0.0
            starved = self._owed and not self._may_sample
            self.counters.sample_blocked_s += elapsed_s if starved else 0.0
        self._now_s = now_s

    # ------------------------------------------------------------------------------------- inserts

    def _on_insert(self, peer: bytes, insert: Insert) -> list[Reply]:
        self._checks.check(insert)
        # Remembered once something of it is accepted: inventing sessions costs a stranger as much.
        session = self._sessions.get(insert.session) or Session()
        if insert.sequence <= session.received:
            self.counters.duplicates += 1
            session.hear(peer, insert.connection)
            self._sessions.move_to_end(insert.session)
            if insert.sequence <= session.stored:
                return [(peer, Ack(insert.session, insert.sequence))]
            return []  # It waits already.
        if insert.sequence > max(session.received + 1, insert.oldest):
            # What lies between was lost with a connection; it comes again, in order, and this too.
            return []
        waiting = Waiting(insert, held_bytes(insert), session.stored >= 0, self._now_s)
        self._waiting.check_room(waiting)
        given_up = session.waiting if insert.oldest > session.received else session.given_up
        window = self._insert_window
        if session.waiting - given_up >= window or given_up >= MAX_GIVEN_UP * window:
            raise MalformedMessage(
                f"more than {window} unacknowledged inserts: the window is full",
                Reason.WINDOW,
            )
        # Nobody makes this process unpack what it then has no use for.
        self._checks.unpack(insert)
        session.hear(peer, insert.connection)
        session.received = insert.sequence
        session.given_up = given_up
        session.waiting += 1
        self._sessions.remember(insert.session, session)
        self._waiting.append(waiting)
        return []

    def _store(self, insert: Insert) -> Reply:
        first, starts = self.storage.write(insert, self._checks.observations(insert))
        self._make_drawable(first, insert.priority, starts)
        self.limiter.inserts += int(np.count_nonzero(starts))
        self.storage.counters[INSERTED] = self.limiter.inserts
        self.counters.inserted_blocks += len(starts)
        session = self._sessions[insert.session]
        session.stored = insert.sequence
        session.waiting -= 1
        session.given_up = max(session.given_up - 1, 0)
        return session.peer, Ack(insert.session, insert.sequence)

    def _make_drawable(
        self,
        first: int,
        priority: npt.NDArray[np.float32],
        starts: npt.NDArray[np.bool_],
    ) -> None:
        """The B blocks from slot `first` on are new; behind the last slot comes slot 0."""
        length = self.storage.layout.length
        before_the_end = self.storage.slots - first
        if len(starts) > before_the_end:
            self._make_drawable(0, priority[before_the_end:], starts[before_the_end:])
            priority, starts = priority[:before_the_end], starts[:before_the_end]
        self.sampler.write(first * length, priority.ravel(), starts.ravel())

    # ------------------------------------------------------------------------------------- samples

    def _on_sample_request(self, peer: bytes, request: SampleRequest) -> list[Reply]:
        if not 0 <= request.batches <= MAX_REQUESTED_BATCHES:
            raise MalformedMessage(
                f"sample_request.batches is not in 0 … {MAX_REQUESTED_BATCHES}", Reason.RANGE
            )
        self._update(request)
        if request.batches:
            if peer not in self._owed and len(self._owed) >= MAX_LEARNERS:
                raise MalformedMessage(
                    f"{len(self._owed)} learners are owed batches already", Reason.FLOOD
                )
            owed = self._owed.setdefault(peer, _Owed())
            owed.batches = min(owed.batches + request.batches, MAX_REQUESTED_BATCHES)
            owed.keys_only = request.keys_only
        return []

    def _on_part_request(self, peer: bytes, request: PartRequest) -> list[Reply]:
        for name in ("rows", "counted"):
            if not 0 <= getattr(request, name) <= self._batch_size:
                raise MalformedMessage(
                    f"part_request.{name} is not in 0 … {self._batch_size}", Reason.RANGE
                )
        self._update(request)
        rows = request.rows if self.sampler.size else 0
        sampled = self._sample(rows, request.counted)
        make = self._drawn if request.keys_only or not rows else self._batch
        return [(peer, make(sampled, request.number))]

    def _update(self, request: SampleRequest | PartRequest) -> None:
        check_priorities(request)
        items, priority = self.storage.write_priorities(request.key, request.priority)
        self.counters.updates += len(items)
        self.counters.stale_updates += len(request.key) - len(items)
        if len(items):
            if self._now_s >= self._next_priorities_s:
                self._next_priorities_s = self._now_s + OBSERVED_PERIOD_S
                self._new_priority.observe_all(priority)
            self.sampler.update(items, priority)

    def _sample(self, rows: int, counted: int) -> Sampled:
        """That many items, and with which probabilities; the limiter counts `counted`."""
        items, probability = self.sampler.sample(rows) if rows else _NOTHING
        self.limiter.samples += counted
        self.storage.counters[SAMPLED] = self.limiter.samples
        if rows and self._now_s >= self._next_age_s:
            self._next_age_s = self._now_s + OBSERVED_PERIOD_S
            self._observe_age(items)
        return items, probability

    def _batch(self, sampled: Sampled, number: int = 0) -> Batch:
        """The transitions themselves. `number`: of the PartRequest."""
        items, probability = sampled
        found = find_transitions(self.storage, items, self._discount)
        return Batch(
            table_size=self.sampler.size,
            inserted=self.limiter.inserts,
            sampled=self.limiter.samples,
            mass=self.sampler.mass,
            request=number,
            mean_version=found.mean_version,
            frames=self._frames.pack(found.rows),
            shift=found.shift,
            action=found.action,
            n_step_return=found.n_step_return,
            discount=found.discount,
            probability=probability.astype(np.float32),
            key=found.key,
        )

    def _drawn(self, sampled: Sampled, number: int = 0) -> Drawn:
        """Their keys."""
        items, probability = sampled
        return Drawn(
            instance=self.storage.instance,
            table_size=self.sampler.size,
            inserted=self.limiter.inserts,
            sampled=self.limiter.samples,
            mass=self.sampler.mass,
            request=number,
            probability=probability.astype(np.float32),
            key=self.storage.keys(items),
        )

    def _observe_age(self, items: npt.NDArray[np.int64]) -> None:
        storage = self.storage
        blocks = storage.next_number - 1 - storage.number[items // storage.layout.length]
        self._sampled_age.observe_all(blocks / storage.slots)

    # ---------------------------------------------------------------------------------------- both

    def advance(self, inserts: int = _ALL, batches: int = _ALL) -> Iterator[Reply]:
        """Serve what is owed and store what waits, as much as the limiter allows, but no more than
        so many batches and inserts. Gives what to send one by one, so that a batch can be on its
        way while the next is gathered; to be used up before anything else is asked of the table."""
        batches = yield from self._serve(batches)
        while inserts and self._waiting and self.limiter.can_insert():
            waiting = self._waiting.pop()
            self._insert_s.observe(self._now_s - waiting.since_s)
            yield self._store(waiting.insert)
            inserts -= 1
            batches = yield from self._serve(batches)

    def _serve(self, most: int) -> Generator[Reply, None, int]:
        """Batches that are owed, at most so many; returns how many of these are left. The keys of
        all that a learner is owed count as their batches, but go out whole."""
        while most and self._owed and self._may_sample:
            peer, owed = self._owed.popitem(last=False)
            before, reply = owed.batches, self._next_reply(owed)
            most = max(most - (before - owed.batches), 0)
            if owed.batches:
                self._owed[peer] = owed  # To the end: learners take turns.
            yield peer, reply
        return most

    def _next_reply(self, owed: _Owed) -> Batch | Drawn:
        """A batch of what is owed, or the keys of all."""
        if owed.keys_only:
            return self._drawn(self._sample_batches(owed, owed.batches))
        return self._batch(self._sample_batches(owed, 1))

    @property
    def _may_sample(self) -> bool:
        return self.sampler.size > 0 and self.limiter.can_sample()

    def _sample_batches(self, owed: _Owed, most: int) -> Sampled:
        """As many batches of what is owed as there may be now, at least one, each drawn by itself;
        what comes of it is owed no more."""
        drawn = [self._sample(self._batch_size, self._batch_size)]
        while len(drawn) < most and self._may_sample:
            drawn.append(self._sample(self._batch_size, self._batch_size))
        owed.batches -= len(drawn)
        if len(drawn) == 1:
            return drawn[0]
        items, probability = zip(*drawn, strict=True)
        return np.concatenate(items), np.concatenate(probability)

    def forget(self, peer: bytes) -> None:
        """A peer is unreachable: what it is owed is dropped."""
        self._owed.pop(peer, None)

    def close(self) -> None:
        """End the threads that pack frames."""
        self._frames.close()

    def _restore(self) -> None:
        """Take up what the storage file holds."""
        storage = self.storage
        filled = storage.filled()
        if not len(filled):
            return
        # Neighbours together: mostly all of them.
        for run in np.split(filled, np.flatnonzero(np.diff(filled) != 1) + 1):
            slots = slice(run[0], run[-1] + 1)
            starts = storage.starts(storage.row_kind[slots])
            self._make_drawable(int(run[0]), storage.priority[slots], starts)
        # In the order in which they were last heard of, for the oldest are forgotten first.
        filled = filled[np.argsort(storage.number[filled])]
        self._sessions.restore(storage.session[filled], storage.sequence[filled])
        self.limiter.resume(int(storage.counters[INSERTED]), int(storage.counters[SAMPLED]))
