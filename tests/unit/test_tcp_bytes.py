"""What TCP has carried, as tests and benchmarks count it."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tests.tcp_bytes import Carried, at_ports, carried, carried_by_port, port_of


def test_a_connections_bytes_are_what_the_kernel_says_each_counted_once() -> None:
    info = bytearray(216)
    struct.pack_into("=Q", info, 128, 500)
    struct.pack_into("=QQ", info, 200, 1_100, 100)
    assert carried(bytes(info)) == Carried(connections=1, sent=1_000, received=500)


@contextmanager
def _connected() -> Iterator[tuple[int, socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
        with near, far:
            yield server.getsockname()[1], near, far


def test_bytes_are_counted_by_the_port_that_was_listened_at() -> None:
    """Both ends are in this process: what one sends, the other receives."""
    with _connected() as (port, near, far):
        near.sendall(bytes(70_000))
        received = 0
        while received < 70_000:
            received += len(far.recv(1 << 16))
        far.sendall(bytes(30))
        near.recv(30)

        assert carried_by_port()[port] == Carried(connections=2, sent=70_030, received=70_030)


def test_traffic_is_that_of_the_ports_asked_for() -> None:
    found = {5: Carried(1, 10, 20), 6: Carried(2, 1, 2), 7: Carried(1, 100, 100)}
    assert at_ports(found, [5, 6, 8]) == Carried(3, 11, 22)
    assert port_of("tcp://[::1]:5550") == 5550
