"""Sockets for tests of the transport, closed when the test ends."""

from pathlib import Path
from typing import Any

import zmq

from common import transport
from common.errors import AddressInUse
from common.messages import Ack, Message
from tests.waiting import wait_until

Socket = zmq.Socket[bytes]

PATIENCE_MS = 30_000


class Sockets:
    """`transport.bind` and `transport.connect` of one context."""

    def __init__(self) -> None:
        self._context: zmq.Context[Socket] = zmq.Context()
        self._opened: list[Socket] = []
        self._watches: list[transport.ReconnectWatch] = []

    def bind(self, socket_type: int, address: str, **options: Any) -> tuple[Socket, str]:
        socket, endpoint = transport.bind(self._context, socket_type, address, **options)
        self._opened.append(socket)
        return socket, endpoint

    def stop(self, server: Socket, endpoint: str) -> None:
        """Close a bound socket."""
        server.close(linger=0)
        # ZeroMQ closes in a thread of its own, and removes the file of an ipc address at the end.
        if endpoint.startswith("ipc://"):
            path = Path(endpoint.removeprefix("ipc://"))
            wait_until(lambda: not path.exists(), f"{path} is removed")

    def bind_when_free(self, endpoint: str) -> Socket:
        """A ROUTER at an address whose owner was stopped."""
        return wait_until(lambda: self._bind_if_free(endpoint), f"{endpoint} is free")

    def _bind_if_free(self, endpoint: str) -> Socket | None:
        try:
            return self.bind(zmq.ROUTER, endpoint)[0]
        except AddressInUse:
            return None

    def connect(self, socket_type: int, address: str, **options: Any) -> Socket:
        self._opened.append(transport.connect(self._context, socket_type, address, **options))
        return self._opened[-1]

    def connect_watched(self, endpoint: str) -> tuple[Socket, transport.ReconnectWatch]:
        """A DEALER as an actor's or a learner's, which must know when its connection is new."""
        client = self.connect(zmq.DEALER, endpoint)
        self._watches.append(transport.ReconnectWatch(client, endpoint))
        return client, self._watches[-1]

    def connected(self, address: str) -> tuple[Socket, Socket, bytes]:
        """A ROUTER, a DEALER that is connected to it, and the DEALER's name there."""
        server, endpoint = self.bind(zmq.ROUTER, address)
        client = self.connect(zmq.DEALER, endpoint)
        transport.send(client, Ack(0, 0))
        peer, _ = receive_with_prefix(server)
        return server, client, peer

    def close(self) -> None:
        for watch in self._watches:
            watch.close()
        for socket in self._opened:
            socket.close(linger=0)
        self._context.destroy(linger=0)


def receive(socket: Socket) -> Message:
    """The next message, which must come."""
    assert socket.poll(PATIENCE_MS), "nothing came"
    message = transport.receive(socket)
    assert message is not None
    return message


def receive_with_prefix(socket: Socket) -> tuple[bytes, Message]:
    """The next message behind a peer's name or a topic."""
    assert socket.poll(PATIENCE_MS), "nothing came"
    frames = transport.receive_frames(socket)
    assert frames is not None
    return bytes(frames[0]), transport.codec.decode(frames[1:])
