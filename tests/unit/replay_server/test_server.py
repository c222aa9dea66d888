"""The socket loop around a table: what is said in one go, and what must not be lost by that."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import zmq

from common import transport
from common.membership import Membership
from common.messages import Ack, Batch, Message
from replay_server.server import serve
from replay_server.table import Table
from tests.experience import insert, steps
from tests.unit.replay_server.tables import make_table, request
from tests.waiting import wait_until


class NoHead:
    """A membership of nothing."""

    joins = 1
    stop_requested = False

    def poll(self, *_: Any) -> None:
        pass


@contextmanager
def served(table: Table, *queued: Message) -> Iterator[zmq.Socket[bytes]]:
    """A peer of a server that finds these messages in its queue when it begins."""
    stop = threading.Event()
    with zmq.Context() as context:
        socket, endpoint = transport.bind(context, zmq.ROUTER, "inproc://table")
        peer = transport.connect(context, zmq.DEALER, endpoint)
        for message in queued:
            assert transport.send(peer, message)
        server = threading.Thread(
            target=serve, args=(socket, endpoint, table, cast(Membership, NoHead()), stop)
        )
        server.start()
        try:
            yield peer
        finally:
            stop.set()
            server.join()
            socket.close()
            peer.close()


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
    sequences: list[int], last: int
) -> None:
    table = make_table(slots=8)
    with served(table, *numbered(*sequences)) as peer:
        assert heard(peer) == Ack(0, last)
        # Nothing else was said before what comes next.
        assert transport.send(peer, request())
        assert isinstance(heard(peer), Batch)
    assert table.counters.inserted_blocks == last + 1


def test_an_insert_that_is_sent_again_later_is_acknowledged_again() -> None:
    with served(make_table(slots=8), *numbered(0, 1)) as peer:
        assert heard(peer) == Ack(0, 1)
        assert transport.send(peer, numbered(0)[0])
        assert heard(peer) == Ack(0, 0)


def test_sessions_behind_one_connection_are_acknowledged_each() -> None:
    messages = [insert(steps(), session=session, sequence=0) for session in (3, 4, 3)]
    with served(make_table(slots=8), *messages) as peer:
        assert {heard(peer) for _ in range(2)} == {Ack(3, 0), Ack(4, 0)}


def test_what_waited_for_experience_is_answered_once_with_it() -> None:
    # An insert and requests that were waiting for it: everything is answered, once.
    table = make_table(slots=8)
    with served(table, request(2), *numbered(0, 1)) as peer:
        answers = [heard(peer) for _ in range(3)]
    assert sorted(type(answer).__name__ for answer in answers) == ["Ack", "Batch", "Batch"]
    assert Ack(0, 1) in [answer for answer in answers if isinstance(answer, Ack)]
