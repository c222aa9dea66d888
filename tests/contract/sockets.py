"""Sockets for tests of the transport, closed when the test ends."""

import functools
from typing import Any, Self

import zmq

from common import codec, transport
from common.messages import Ack, Message
from common.reconnect_watch import ReconnectWatch
from common.security import NOTHING_TOLD, SecureContext, Security
from common.subscriptions import bind_publisher

Socket = zmq.Socket[bytes]

PATIENCE_MS = 30_000


class Sockets:
    """`transport.bind` and `transport.connect` of one context, as one process has them: when it is
    closed, so is everything, and its addresses are free."""

    security: Security = NOTHING_TOLD
    """Of all processes of a test."""

    def __init__(self, security: Security | None = None) -> None:
        self._own_security = security
        self._opened: list[Socket] = []
        self._watches: list[ReconnectWatch] = []

    @functools.cached_property
    def _context(self) -> SecureContext:
        return SecureContext(self._own_security or self.security)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for watch in self._watches:
            watch.close()
        for socket in self._opened:
            socket.close(linger=0)
        self._context.term()

    def bind(self, socket_type: int, address: str, **options: Any) -> tuple[Socket, str]:
        socket, endpoint = transport.bind(self._context, socket_type, address, **options)
        self._opened.append(socket)
        return socket, endpoint

    def bind_publisher(self, address: str) -> tuple[Socket, str]:
        socket, endpoint = bind_publisher(self._context, address)
        self._opened.append(socket)
        return socket, endpoint

    def connect(self, socket_type: int, address: str, **options: Any) -> Socket:
        self._opened.append(transport.connect(self._context, socket_type, address, **options))
        return self._opened[-1]

    def connect_watched(
        self, socket_type: int, address: str, **options: Any
    ) -> tuple[Socket, ReconnectWatch]:
        socket, watch = transport.connect_watched(self._context, socket_type, address, **options)
        self._opened.append(socket)
        self._watches.append(watch)
        return socket, watch

    def connected(self, address: str) -> tuple[Socket, Socket, bytes]:
        """A ROUTER, a DEALER that is connected to it, and the DEALER's name there."""
        server, endpoint = self.bind(zmq.ROUTER, address)
        client = self.connect(zmq.DEALER, endpoint)
        transport.send(client, Ack(0, 0))
        peer, _ = receive_with_prefix(server)
        return server, client, peer


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
    return bytes(frames[0]), codec.decode(frames[1:])
