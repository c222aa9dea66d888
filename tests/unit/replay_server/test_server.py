"""The socket loop around a table: what is said in one go, and what must not be lost by that."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, cast

import pytest
import zmq

from common import transport
from common.config import Config
from common.manifest import Manifest
from common.membership import Membership
from common.messages import Ack, Batch, Message
from common.metric_table import histogram
from common.metrics import Histogram
from common.trace import NO_TRACE
from replay_server import server
from replay_server.server import (
    SAMPLED_PER_TURN,
    STORED_PER_TURN,
    build_table,
    serve,
    table_values,
)
from replay_server.table import MAX_REQUESTED_BATCHES, Table
from tests.experience import LAYOUT, SPEC, insert, steps
from tests.unit.replay_server.tables import (
    IMAGE_LAYOUT,
    IMAGES,
    draw,
    make_table,
    packed_insert,
    part,
    request,
    unpackings,
)
from tests.waiting import wait_until


class NoHead:
    """A membership of nothing."""

    contacts = 1
    stop_requested = False

    def poll(self, *_: Any) -> None:
        pass


@contextmanager
def served(table: Table, *queued: Message) -> Iterator[zmq.Socket[bytes]]:
    """A peer of a server that finds these messages in its queue when it begins."""
    with zmq.Context() as context:
        socket, endpoint = transport.bind(context, zmq.ROUTER, "inproc://table")
        peer = transport.connect(context, zmq.DEALER, endpoint)
        for message in queued:
            assert transport.send(peer, message)
        with closing(socket), closing(peer), serving(socket, endpoint, table):
            yield peer


@contextmanager
def serving(socket: zmq.Socket[bytes], endpoint: str, table: Table) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(
        target=serve, args=(socket, endpoint, table, cast(Membership, NoHead()), stop)
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def heard(peer: zmq.Socket[bytes]) -> Message:
    found = wait_until(lambda: transport.receive(peer), "the server answers")
    assert found is not None
    return found


def numbered(*sequences: int) -> list[Message]:
    return [insert(steps(), sequence=s, oldest=0) for s in sequences]


@pytest.mark.parametrize(
    ("sequences", "last"),
    [
        ([0], 0),
        ([0, 1, 2], 2),
        ([0, 1, 0], 1),  # Insert 0 was sent again: its acknowledgement is the older one.
        ([0, 1, 2, 0], 2),
    ],
)
def test_one_acknowledgement_speaks_for_all_that_one_turn_stored(
    sequences: list[int], last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TURN_S", 60.0)  # A busy machine's turn must not end before.
    table = make_table(slots=8)
    with served(table, *numbered(*sequences)) as peer:
        assert heard(peer) == Ack(0, last)
        # Nothing else was said before what comes next.
        assert transport.send(peer, request())
        assert isinstance(heard(peer), Batch)
    assert table.counters.inserted_blocks == last + 1


def test_an_insert_that_is_sent_again_later_is_acknowledged_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "TURN_S", 60.0)
    with served(make_table(slots=8), *numbered(0, 1)) as peer:
        assert heard(peer) == Ack(0, 1)
        assert transport.send(peer, numbered(0)[0])
        assert heard(peer) == Ack(0, 0)


def test_sessions_behind_one_connection_are_acknowledged_each() -> None:
    messages = [insert(steps(), session=session, sequence=0) for session in (3, 4, 3)]
    with served(make_table(slots=8), *messages) as peer:
        assert {heard(peer) for _ in range(2)} == {Ack(3, 0), Ack(4, 0)}


def test_a_turn_is_over_in_time_whatever_an_insert_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TURN_S", -1.0)
    table = make_table(slots=8)
    with zmq.Context() as context:
        socket, endpoint = transport.bind(context, zmq.ROUTER, "inproc://table")
        peer = transport.connect(context, zmq.DEALER, endpoint)
        with closing(socket), closing(peer):
            for message in numbered(0, 1, 2):
                assert transport.send(peer, message)
            turn = server._Turn(socket, table, NO_TRACE, histogram("replay_batch_seconds"))
            for taken in (1, 2, 3):
                assert turn.take()
                assert table.counters.inserted_blocks == taken
            assert not turn.take()


def test_what_waited_for_experience_is_answered_once_with_it() -> None:
    # An insert and requests that were waiting for it: everything is answered, once.
    table = make_table(slots=8)
    with served(table, request(2), *numbered(0, 1)) as peer:
        answers = [heard(peer) for _ in range(3)]
    assert sorted(type(answer).__name__ for answer in answers) == ["Ack", "Batch", "Batch"]
    assert Ack(0, 1) in [answer for answer in answers if isinstance(answer, Ack)]


def test_a_learner_does_not_wait_for_what_very_many_actors_sent_before() -> None:
    actors, inserts = 100, 4
    table = make_table(slots=2 * actors * inserts)
    with zmq.Context() as context, ExitStack() as stack:
        socket, endpoint = transport.bind(context, zmq.ROUTER, "inproc://table")
        stack.enter_context(closing(socket))
        for session in range(actors):
            actor = stack.enter_context(closing(transport.connect(context, zmq.DEALER, endpoint)))
            for sequence in range(inserts):
                assert transport.send(actor, insert(steps(), session=session, sequence=sequence))
        learner = stack.enter_context(closing(transport.connect(context, zmq.DEALER, endpoint)))
        assert transport.send(learner, request())
        with serving(socket, endpoint, table):
            batch = heard(learner)
            wait_until(
                lambda: table.counters.inserted_blocks == actors * inserts, "all inserts are stored"
            )
    assert isinstance(batch, Batch)
    # ZeroMQ hands over a message of each peer in turn: the learner's comes behind one of each.
    assert batch.inserted <= STORED_PER_TURN * LAYOUT.length


def test_neither_side_gets_more_than_its_share_while_both_want_more() -> None:
    turns, batches = 10, 64
    inserts = turns * STORED_PER_TURN
    table = make_table(slots=2 * inserts)
    table.handle(b"before", insert(steps(), session=99), 0.0)
    messages = [insert(steps(), sequence=sequence) for sequence in range(inserts)]
    with served(table, request(batches), *messages) as peer:
        answers: list[Batch] = []
        while len(answers) < batches:
            answer = heard(peer)
            if isinstance(answer, Batch):
                answers.append(answer)
    stored = [answer.inserted // LAYOUT.length - 1 for answer in answers]
    # A turn's batches may go out before its inserts are stored, or after.
    for i, count in enumerate(stored):
        turn = i // SAMPLED_PER_TURN
        assert min(STORED_PER_TURN * turn, inserts) <= count <= STORED_PER_TURN * (turn + 1)


def test_who_cannot_be_reached_is_owed_no_more() -> None:
    table = make_table(slots=8, batch_size=4)
    table.replies(b"gone", request(8), 0.0)
    table.replies(b"gone", insert(steps()), 0.0)
    with zmq.Context() as context:
        socket, _ = server.bind(context, "inproc://table")
        with closing(socket):
            turn = server._Turn(socket, table, NO_TRACE, histogram("replay_batch_seconds"))
            assert turn.take()
            assert not turn.take()
    assert table.limiter.samples == 4  # One batch was made.


def test_the_time_that_a_side_waits_is_counted_while_nothing_comes() -> None:
    table = make_table()
    with served(table, request()):
        wait_until(lambda: table.counters.sample_blocked_s > 0.0, "the wait is counted")


def test_how_full_a_replay_is_goes_from_0_to_1() -> None:
    table = make_table(slots=4)
    fill = [table_values(table)["replay_fill"]]
    for sequence in range(5):
        table.handle(b"actor", insert(steps(), sequence=sequence), 0.0)
        fill.append(table_values(table)["replay_fill"])
    assert fill == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_a_server_that_starts_again_draws_other_numbers() -> None:
    config = Config(
        replay_capacity=64,
        block_length=8,
        envs_per_actor=1,
        batch_size=32,
        min_size_to_sample=1,
        samples_per_insert=None,
        prioritized=False,
    )
    run = Manifest("run", config, SPEC)
    message = insert(steps(8, run.layout), layout=run.layout)

    def keys(incarnation: tuple[int, int]) -> list[int]:
        table = build_table(run, None, incarnation)
        table.handle(b"actor", message, 0.0)
        return draw(table).key.tolist()

    first = keys((0, 0))
    assert keys((0, 0)) == first
    assert keys((0, 1)) != first
    assert keys((1, 0)) != first


BATCH = 16
"""Of images: 225 KB, so that a few of them fill what the system keeps of a connection."""


@contextmanager
def served_by_wire() -> Iterator[tuple[Table, zmq.Socket[bytes]]]:
    """A table with images, and a peer that keeps little of what it does not read."""
    table = make_table(slots=8, batch_size=BATCH, spec=IMAGES, layout=IMAGE_LAYOUT)
    table.handle(b"before", packed_insert(0), 0.0)
    with zmq.Context() as context:
        socket, endpoint = server.bind(context, "tcp://127.0.0.1:0")
        with closing(socket), closing(context.socket(zmq.DEALER)) as peer:
            peer.rcvhwm, peer.rcvbuf, peer.linger = 1, 4_096, 0
            peer.connect(endpoint)
            with serving(socket, endpoint, table):
                yield table, peer


def made(table: Table, batches: int) -> None:
    wait_until(lambda: table.limiter.samples == batches * BATCH, f"{batches} batches are made")


def test_what_a_peer_does_not_read_is_not_kept_without_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "ANSWERS_AHEAD", 4)
    asked = 100
    with served_by_wire() as (table, peer):
        for number in range(asked):
            assert transport.send(peer, part(BATCH, BATCH, number))
        made(table, asked)
        answers: list[Message | None] = []

        def is_answered_again() -> bool:
            assert transport.send(peer, part(0, number=asked))
            answers.append(transport.receive(peer))
            return getattr(answers[-1], "request", None) == asked

        wait_until(is_answered_again, "once it reads, it is answered again")
    assert sum(isinstance(answer, Batch) for answer in answers) < asked


def test_a_learner_that_is_busy_gets_all_batches_that_it_may_ask_for() -> None:
    with served_by_wire() as (table, peer):
        assert transport.send(peer, request(MAX_REQUESTED_BATCHES))
        made(table, MAX_REQUESTED_BATCHES)
        for _ in range(MAX_REQUESTED_BATCHES):
            assert isinstance(heard(peer), Batch)


def test_images_of_a_turns_inserts_are_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = unpackings(monkeypatch)
    table = make_table(slots=8, spec=IMAGES, layout=IMAGE_LAYOUT)
    messages = [packed_insert(s, sequence=s) for s in range(STORED_PER_TURN)]
    with served(table, *messages) as peer:
        assert heard(peer) == Ack(0, STORED_PER_TURN - 1)
    assert len(unpacked) == STORED_PER_TURN


@pytest.mark.parametrize("message", [request(), part(3)])
def test_the_time_that_a_batch_takes_is_that_of_making_it(
    message: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(slots=8)
    table.handle(b"before", insert(steps()), 0.0)
    made_s, sample = 0.05, table.sampler.sample

    def slow(n: int) -> Any:
        time.sleep(made_s)
        return sample(n)

    monkeypatch.setattr(table.sampler, "sample", slow)
    observed: list[float] = []
    monkeypatch.setattr(Histogram, "observe", lambda _, value: observed.append(value))
    with served(table, message) as peer:
        assert isinstance(heard(peer), Batch)
    assert [value for value in observed if value >= made_s]
