"""What somebody who listens in on the wire reads, and what somebody who changes it can do."""

import contextlib
import socket
import threading

import pytest
import zmq

from common import transport
from common.messages import Ack
from tests.contract.keyed import Processes
from tests.contract.sockets import receive_with_prefix
from tests.waiting import wait_until


class Wiretap:
    """A TCP proxy that keeps what passes, in both directions."""

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.removeprefix("tcp://").split(":")
        self._server = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.heard = bytearray()
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    thread = threading.Thread(target=self._pump, args=(source, sink))
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(self.passes(data))
        # Who hangs up on one side has hung up on the other.
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def passes(self, data: bytes) -> bytes:
        self.heard += data
        return data

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize(("who", "readable"), [("alice", False), ("nobody", True)])
def test_whoever_listens_in_on_the_wire_reads_nothing(
    run: Processes, processes: contextlib.ExitStack, who: str, readable: bool
) -> None:
    """Without keys everything can be read: the wiretap works."""
    there = run.of("server" if who == "alice" else "nobody")
    server, endpoint = there.bind(zmq.ROUTER, "tcp://127.0.0.1:0")
    wiretap = processes.enter_context(contextlib.closing(Wiretap(endpoint)))
    client = run.of(who).connect(zmq.DEALER, wiretap.endpoint)
    secret = bytes(range(64)) * 1_000
    client.send_multipart([b"experience", secret])
    peer, *received = server.recv_multipart()
    assert received == [b"experience", secret]
    server.send_multipart([peer, b"weights", secret])
    assert client.recv_multipart() == [b"weights", secret]
    assert len(wiretap.heard) > 2 * len(secret)
    for word in (b"experience", b"weights", secret[:32], secret[40:56]):
        assert (word in wiretap.heard) == readable
    keys = run.keys("server")
    assert keys is not None
    assert keys.secret not in wiretap.heard
    assert zmq.utils.z85.decode(keys.secret) not in wiretap.heard


@pytest.mark.slow
def test_a_damaged_byte_on_the_wire_is_no_message(
    run: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encryption is authenticated: what was changed on its way does not arrive as another value.
    ZeroMQ's heartbeats end such a connection after FRAME_LIMIT_S, which is shorter here."""
    monkeypatch.setattr(transport, "FRAME_LIMIT_S", 5)
    server, endpoint = run.of("server").bind(zmq.ROUTER, "tcp://127.0.0.1:0")
    client = run.of("alice").connect(zmq.DEALER, endpoint)
    transport.send(client, Ack(0, 0))
    receive_with_prefix(server)
    with contextlib.closing(Damaging(endpoint)) as wiretap:
        victim, watch = run.of("bob").connect_watched(zmq.DEALER, wiretap.endpoint)
        victim.send(b"hello")
        assert server.recv_multipart()[1] == b"hello"
        wiretap.armed = True
        victim.send(b"A" * 1_000)
        wait_until(lambda: not wiretap.armed, "a byte is damaged")
        wait_until(watch.reconnected, "the connection is made anew", limit_s=60.0)
        victim.send(b"again")
        assert server.recv_multipart()[1] == b"again"


class Damaging(Wiretap):
    armed = False

    def passes(self, data: bytes) -> bytes:
        if not self.armed or len(data) < 500:
            return data
        self.armed = False
        return data[:300] + bytes([data[300] ^ 1]) + data[301:]
