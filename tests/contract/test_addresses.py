"""Where one may listen and connect: busy, open to the network, or no address at all."""

import re
import socket
import tempfile
from pathlib import Path

import pytest
import zmq

from common import transport
from common.errors import AddressInUse, ConfigError, ZapexError
from common.keys import Keys
from common.messages import Ack
from common.security import Security
from tests.contract.sockets import Sockets, receive, receive_with_prefix
from tests.waiting import wait_until


def test_an_address_that_is_taken_is_refused_and_its_owner_not_disturbed(
    sockets: Sockets, address: str
) -> None:
    server, endpoint = sockets.bind(zmq.ROUTER, address)

    with pytest.raises(AddressInUse, match="is in use by another process"):
        sockets.bind(zmq.ROUTER, endpoint)

    client = sockets.connect(zmq.DEALER, endpoint)
    transport.send(client, Ack(0, 1))
    assert receive_with_prefix(server)[1] == Ack(0, 1)


def test_an_address_is_free_again_after_its_owner_closed(sockets: Sockets, address: str) -> None:
    server, endpoint = sockets.bind(zmq.ROUTER, address)
    server.close()

    def bind_again() -> bool:
        try:
            return bool(sockets.bind(zmq.ROUTER, endpoint))
        except AddressInUse:
            return False  # ZeroMQ closes in a thread of its own.

    wait_until(bind_again, "the address is free")


def test_a_socket_file_that_a_dead_process_left_behind_is_taken_over(sockets: Sockets) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "socket"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        assert path.exists()

        server, client, peer = sockets.connected(f"ipc://{path}")

        assert transport.send(server, Ack(0, 1), prefix=(peer,))
        assert receive(client) == Ack(0, 1)


def test_a_file_that_is_no_socket_is_not_taken_over(sockets: Sockets, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.write_text("of last year")

    with pytest.raises(ZapexError, match=str(notes)):
        sockets.bind(zmq.ROUTER, f"ipc://{notes}")

    assert notes.read_text() == "of last year"


@pytest.mark.parametrize("port", ["0", "*"])
def test_port_0_takes_a_free_one_and_tells_which(sockets: Sockets, port: str) -> None:
    endpoints = {sockets.bind(zmq.ROUTER, f"tcp://127.0.0.1:{port}")[1] for _ in "ab"}

    assert len(endpoints) == 2
    for endpoint in endpoints:
        host, port = endpoint.removeprefix("tcp://").split(":")
        assert host == "127.0.0.1"
        assert 1 <= int(port) < 1 << 16


OPEN_TO_OTHERS = [
    *("tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0", "tcp://192.0.2.1:5550", "tcp://example:5550"),
    *("tcp://:5550", "tcp://lo:5550", "tcp://127.0.0.1.example:0", "tcp://[2001:db8::1]:0"),
    # Other transports of ZeroMQ that lead out of this host.
    *("tipc://{5560,0,4}", "ws://0.0.0.0:0", "udp://0.0.0.0:5560", "pgm://eth0;239.0.0.1:5560"),
]


@pytest.mark.parametrize("address", OPEN_TO_OTHERS)
def test_an_address_that_others_can_reach_is_refused_unless_insecure(
    sockets: Sockets, address: str
) -> None:
    assert not transport.is_local(address)
    with pytest.raises(ConfigError, match="add --insecure on a network you trust"):
        sockets.bind(zmq.ROUTER, address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "tcp://127.0.0.1:5550",
            "tcp://127.255.255.254:0",
            "tcp://localhost:5550",
            "tcp://[::1]:*",
        ),
        *("ipc:///tmp/socket", "inproc://name"),
    ],
)
def test_an_address_of_this_host_alone_needs_no_permission(address: str) -> None:
    assert transport.is_local(address)


@pytest.mark.parametrize("how", ["insecure", "keys"])
def test_with_permission_or_keys_one_listens_on_all_interfaces(how: str, keys: Keys) -> None:
    with Sockets(Security(insecure=True) if how == "insecure" else Security(keys)) as sockets:
        _listens_on_all_interfaces(sockets)


def _listens_on_all_interfaces(sockets: Sockets) -> None:
    server, endpoint = sockets.bind(zmq.ROUTER, "tcp://0.0.0.0:0")
    assert endpoint.startswith("tcp://0.0.0.0:")

    client = sockets.connect(zmq.DEALER, transport.reachable(endpoint, "tcp://127.0.0.1:5550"))
    transport.send(client, Ack(0, 1))
    assert receive_with_prefix(server)[1] == Ack(0, 1)


NO_ADDRESSES = [
    *("nonsense", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://127.0.0.1:port"),
    *("tcp://127.0.0.1:65536", "tcp://127.0.0.1:99999", "tcp://127.0.0.1:-1", "tcp://]:5550"),
    *("ipc://", "ipc://" + 200 * "x", "http://127.0.0.1:80"),
    *("tcp://head..example:5550", "tcp://.example:5550", f"tcp://{70 * 'x'}.example:5550"),
]


@pytest.mark.parametrize(
    "address", [*NO_ADDRESSES, "tcp://[::1:0", "tcp://[name]:0", "ipc:///no/such/directory/socket"]
)
def test_nobody_listens_on_what_is_no_address(sockets: Sockets, address: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(address)):
        sockets.bind(zmq.ROUTER, address)


@pytest.mark.parametrize("address", [*NO_ADDRESSES, "", "tcp://127.0.0.1:*"])
def test_nobody_connects_to_what_is_no_address(sockets: Sockets, address: str) -> None:
    for connect in (sockets.connect, sockets.connect_watched):
        with pytest.raises(ConfigError, match=re.escape(repr(address))):
            connect(zmq.DEALER, address)


@pytest.mark.parametrize(
    ("endpoint", "via", "expected"),
    [
        ("tcp://0.0.0.0:5560", "tcp://head:5550", "tcp://head:5560"),
        ("tcp://0.0.0.0:5560", "tcp://10.0.0.7:5550", "tcp://10.0.0.7:5560"),
        ("tcp://[::]:5560", "tcp://head:5550", "tcp://head:5560"),
        ("tcp://[::]:5560", "tcp://[2001:db8::1]:5550", "tcp://[2001:db8::1]:5560"),
        ("tcp://0.0.0.0:5560", "tcp://[2001:db8::1]:5550", "tcp://[2001:db8::1]:5560"),
        # Whoever names its own address is reached there.
        ("tcp://127.0.0.1:5560", "tcp://head:5550", "tcp://127.0.0.1:5560"),
        ("tcp://replay:5560", "tcp://head:5550", "tcp://replay:5560"),
        ("tcp://[::1]:5560", "tcp://head:5550", "tcp://[::1]:5560"),
        # From one host or process to another transport there is no name to borrow.
        ("ipc:///tmp/replay", "tcp://head:5550", "ipc:///tmp/replay"),
        ("inproc://replay", "inproc://head", "inproc://replay"),
        ("tcp://0.0.0.0:5560", "ipc:///tmp/head", "tcp://0.0.0.0:5560"),
    ],
)
def test_reachable_names_a_peer_as_it_is_seen_from_here(
    endpoint: str, via: str, expected: str
) -> None:
    assert transport.reachable(endpoint, via) == expected
