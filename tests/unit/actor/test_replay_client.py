"""Where an actor's experience goes, and what becomes of its window when that changes."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import zmq

import actor.replay_client
from actor.blocks import Blocks
from actor.replay_client import ReplayClient
from common import codec, transport
from common.messages import Ack, Insert
from common.rejections import Rejections
from tests.waiting import wait_until

SESSION = 5
BLOCKS = Blocks(
    obs=np.zeros((1, 5, 2), np.float32),
    action=np.zeros((1, 5), np.int32),
    reward=np.zeros((1, 5), np.float32),
    row_kind=np.zeros((1, 5), np.uint8),
    priority=np.zeros((1, 4), np.float32),
)


class Server:
    """Hears inserts and acknowledges them when it is told to."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], name: str) -> None:
        self.socket, self.endpoint = transport.bind(context, zmq.ROUTER, f"inproc://{name}")
        self._peer = b""

    def hear(self) -> Insert:
        frames = wait_until(lambda: transport.receive_frames(self.socket), "an insert")
        assert frames is not None
        self._peer = bytes(frames[0])
        message = codec.decode(frames[1:])
        assert isinstance(message, Insert)
        return message

    def acknowledge(self, sequence: int) -> None:
        assert transport.send(self.socket, Ack(SESSION, sequence), prefix=(self._peer,))


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    with zmq.Context() as context:
        both = Server(context, "one"), Server(context, "other")
        yield both
        for server in both:
            server.socket.close(linger=0)


@pytest.fixture
def client(servers: tuple[Server, Server]) -> Iterator[ReplayClient]:
    context = servers[0].socket.context
    replay = ReplayClient(
        context, servers[0].endpoint, SESSION, 2, Rejections("actor_rejected_messages_total")
    )
    with contextlib.closing(replay):
        yield replay


def test_after_a_move_inserts_go_on_where_they_were_elsewhere(
    servers: tuple[Server, Server], client: ReplayClient
) -> None:
    one, other = servers
    client.insert(BLOCKS, 1)
    client.insert(BLOCKS, 1)
    assert [one.hear().sequence for _ in range(2)] == [0, 1]
    assert client.window_is_full
    client.follow(other.endpoint)
    assert not client.window_is_full
    client.insert(BLOCKS, 1)
    moved = other.hear()
    # The new server is told that nothing is to come before it.
    assert (moved.sequence, moved.oldest) == (2, 2)
    assert client.unacknowledged == 3
    one.acknowledge(1)
    other.acknowledge(2)
    client.poll()
    assert (client.unacknowledged, client.abandoned) == (0, 0)


def test_what_the_old_server_does_not_acknowledge_in_time_is_abandoned_and_counted(
    servers: tuple[Server, Server], client: ReplayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor.replay_client, "PARTING_S", -1.0)
    one, other = servers
    client.insert(BLOCKS, 1)
    one.hear()
    client.follow(other.endpoint)
    client.poll()
    assert (client.unacknowledged, client.abandoned) == (0, 1)


def test_who_comes_back_to_its_first_server_goes_on_there(
    servers: tuple[Server, Server], client: ReplayClient
) -> None:
    one, other = servers
    for server, sequence in ((one, 0), (other, 1), (one, 2)):
        client.follow(server.endpoint)
        client.insert(BLOCKS, 1)
        insert = server.hear()
        assert (insert.sequence, insert.oldest) == (sequence, sequence)
        assert insert.connection == sequence  # Each time a new one.
        server.acknowledge(sequence)
        client.poll()
        assert client.unacknowledged == 0


def test_who_comes_back_while_its_first_server_still_owes_it_has_that_window_again(
    servers: tuple[Server, Server], client: ReplayClient
) -> None:
    """The window is of two; a server takes the numbers of a session without gaps."""
    one, other = servers
    client.insert(BLOCKS, 1)
    assert one.hear().sequence == 0
    client.follow(other.endpoint)
    client.insert(BLOCKS, 1)
    assert other.hear().sequence == 1
    client.follow(one.endpoint)
    assert not client.window_is_full
    client.insert(BLOCKS, 1)
    assert client.window_is_full
    insert = one.hear()
    assert (insert.sequence, insert.oldest) == (1, 0)
    one.acknowledge(1)
    client.poll()
    assert client.unacknowledged == 1  # At the other one.
    other.acknowledge(1)
    client.poll()
    assert (client.unacknowledged, client.abandoned) == (0, 0)
    # Beyond all that the other one may have been sent.
    client.follow(other.endpoint)
    client.insert(BLOCKS, 1)
    insert = other.hear()
    assert (insert.sequence, insert.oldest) == (2, 2)


def test_to_follow_where_it_is_already_changes_nothing(
    servers: tuple[Server, Server], client: ReplayClient
) -> None:
    client.insert(BLOCKS, 1)
    client.follow(servers[0].endpoint)
    client.insert(BLOCKS, 1)
    assert client.window_is_full


@pytest.mark.parametrize(
    ("host", "method"), [("127.0.0.1", "delta"), ("127.1", "delta+lz4"), ("inproc", "none")]
)
def test_images_are_packed_for_where_they_go_also_after_a_move(
    servers: tuple[Server, Server], host: str, method: str
) -> None:
    context, rejections = servers[0].socket.context, Rejections("actor_rejected_messages_total")
    endpoint = f"tcp://{host}:9" if host != "inproc" else servers[0].endpoint
    blocks = replace(BLOCKS, obs=np.zeros((1, 5, 84, 84), np.uint8))
    elsewhere = ReplayClient(context, servers[1].endpoint, SESSION, 2, rejections, "lz4")
    for client in (ReplayClient(context, endpoint, SESSION, 2, rejections, "lz4"), elsewhere):
        with contextlib.closing(client):
            client.follow(endpoint)
            client.insert(blocks, 1)
            ((sent, _),) = client._link.unacknowledged.values()
            assert getattr(sent.obs, "method", "none") == method
