"""One suite for every transport: what is sent arrives whole and in order."""

import subprocess
import sys

import numpy as np
import pytest
import zmq

from common import transport
from common.errors import MalformedMessage, SchemaMismatch
from common.messages import Ack, SampleRequest
from common.reconnect_watch import ReconnectWatch
from tests.contract.equality import assert_same
from tests.contract.examples import EXAMPLES
from tests.contract.sockets import PATIENCE_MS, Sockets, receive, receive_with_prefix
from tests.waiting import wait_until

over_a_network = pytest.mark.parametrize(
    "address", ["tcp", "ipc", "tcp with keys", "ipc with keys"], indirect=True
)


def test_every_message_arrives_in_both_directions(sockets: Sockets, address: str) -> None:
    server, client, peer = sockets.connected(address)
    for example in EXAMPLES:
        assert transport.send(client, example)
        sender, received = receive_with_prefix(server)
        assert sender == peer
        assert_same(received, example)

        assert transport.send(server, example, prefix=(peer,))
        assert_same(receive(client), example)


def test_large_arrays_arrive_whole_and_in_order(sockets: Sockets, address: str) -> None:
    server, client, peer = sockets.connected(address)
    sent = [
        SampleRequest(i, np.arange(200_000) + i, np.full(200_000, i, np.float32)) for i in range(8)
    ]
    for message in sent:
        assert transport.send(server, message, prefix=(peer,))
    for message in sent:
        assert_same(receive(client), message)


def test_receiving_does_not_wait(sockets: Sockets, address: str) -> None:
    server, client, _ = sockets.connected(address)
    for socket in (server, client):
        assert not transport.has_message(socket)
        assert transport.receive_frames(socket) is None
        assert transport.receive(socket) is None


def test_a_subscriber_gets_its_topic_and_no_other(sockets: Sockets, address: str) -> None:
    publisher, endpoint = sockets.bind(zmq.XPUB, address)
    subscriber = sockets.connect(zmq.SUB, endpoint)
    subscriber.subscribe(b"acting")
    assert publisher.poll(PATIENCE_MS)
    assert publisher.recv() == b"\x01acting"

    transport.send(publisher, Ack(0, 99), prefix=(b"evaluation",))
    transport.send(publisher, Ack(0, 1), prefix=(b"acting",))

    assert receive_with_prefix(subscriber) == (b"acting", Ack(0, 1))


def test_sending_to_a_peer_that_is_not_there_is_answered_by_false(
    sockets: Sockets, address: str
) -> None:
    server, _, peer = sockets.connected(address)
    server.router_mandatory = True

    assert not transport.send(server, Ack(0, 0), prefix=(b"nobody",))
    assert transport.send(server, Ack(0, 0), prefix=(peer,))


def test_a_full_queue_drops_whole_messages_and_says_which(sockets: Sockets, address: str) -> None:
    server, endpoint = sockets.bind(zmq.PULL, address, queue_messages=1)
    client = sockets.connect(zmq.PUSH, endpoint, queue_messages=1)
    wait_until(lambda: transport.send(client, Ack(0, 0)), "the connection stands")
    assert receive(server) == Ack(0, 0)

    megabyte, sent = np.zeros(125_000, np.int64), 0
    while transport.send(client, SampleRequest(sent, megabyte)):
        sent += 1
        assert sent < 1_000, "the queue has no end"

    for i in range(sent):
        arrived = receive(server)
        assert isinstance(arrived, SampleRequest)
        assert (arrived.batches, len(arrived.key)) == (i, 125_000)
    wait_until(lambda: transport.send(client, Ack(0, 7)), "there is room again")
    assert receive(server) == Ack(0, 7)


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ([b"GET / HTTP/1.1"], MalformedMessage),
        ([b""], MalformedMessage),
        ([b"\x94\x06\xa3ack\x80\x90"], MalformedMessage),
        ([b"\x92\x01\xa3ack"], SchemaMismatch),
    ],
    ids=repr,
)
def test_bytes_that_are_no_message_are_refused_and_the_next_message_is_read(
    sockets: Sockets, address: str, frames: list[bytes], error: type[Exception]
) -> None:
    server, client, peer = sockets.connected(address)
    server.send_multipart([peer, *frames])
    transport.send(server, Ack(0, 1), prefix=(peer,))

    with pytest.raises(error):
        receive(client)
    assert receive(client) == Ack(0, 1)


# -------------------------------------------------------------------------------------- reconnects


def test_a_watch_is_silent_while_the_first_connection_stands(
    sockets: Sockets, address: str
) -> None:
    server, endpoint = sockets.bind(zmq.ROUTER, address)
    client, watch = sockets.connect_watched(zmq.DEALER, endpoint)
    assert not watch.reconnected()
    for i in range(3):
        transport.send(client, Ack(0, i))
        assert receive_with_prefix(server)[1] == Ack(0, i)
        assert not watch.reconnected()


@over_a_network
def test_every_client_is_told_once_of_a_server_that_came_back_at_the_same_address(
    sockets: Sockets, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="common.reconnect_watch")
    with Sockets() as server_process:
        server, endpoint = server_process.bind(zmq.ROUTER, address)
        clients = [sockets.connect_watched(zmq.DEALER, endpoint) for _ in range(8)]
        for client, _ in clients:
            transport.send(client, Ack(0, 0))
            receive_with_prefix(server)

    for restart in (1, 2):
        caplog.clear()
        with Sockets() as server_process:
            server, _ = server_process.bind(zmq.ROUTER, endpoint)
            for i, (client, watch) in enumerate(clients):
                wait_until(watch.reconnected, f"client {i} is told of restart {restart}")
                assert not watch.reconnected()
                transport.send(client, Ack(i, restart))
                assert receive_with_prefix(server)[1] == Ack(i, restart)
        said = [record.getMessage().partition(" after")[0] for record in caplog.records]
        assert said.count(f"lost the connection to {endpoint}") == len(clients)
        assert said.count(f"connected to {endpoint} again") == len(clients)


@over_a_network
def test_a_watch_that_began_after_the_first_connection_stood_tells_of_the_next(
    sockets: Sockets, address: str
) -> None:
    with Sockets() as server_process:
        server, endpoint = server_process.bind(zmq.ROUTER, address)
        client = sockets.connect(zmq.DEALER, endpoint)
        transport.send(client, Ack(0, 0))
        receive_with_prefix(server)
        watch = ReconnectWatch(client, endpoint)

    with Sockets() as server_process:
        server_process.bind(zmq.ROUTER, endpoint)
        wait_until(watch.reconnected, "the client is told")
    watch.close()


@over_a_network
def test_a_client_that_was_there_before_its_server_is_not_told_of_a_reconnection(
    sockets: Sockets, address: str
) -> None:
    with Sockets() as earlier_process:  # Tells us a port that is free now.
        _, endpoint = earlier_process.bind(zmq.ROUTER, address)
    client, watch = sockets.connect_watched(zmq.DEALER, endpoint)
    transport.send(client, Ack(0, 7))

    server, _ = sockets.bind(zmq.ROUTER, endpoint)

    assert receive_with_prefix(server)[1] == Ack(0, 7)
    assert not watch.reconnected()


def test_a_busy_subscriber_outlives_its_publisher() -> None:
    """With pings of its own, libzmq would abort its process: its queue is full when it pings on a
    connection that is gone."""
    command = [sys.executable, "-m", "tests.contract.busy_subscriber"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_who_waits_at_no_socket_waits_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_s: list[float] = []
    monkeypatch.setattr(transport.time, "sleep", waited_s.append)
    assert not transport.wait_any([], timeout_ms=250)
    assert waited_s == [0.25]
