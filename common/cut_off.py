"""A client that was revoked is cut off, although its connection stands."""

import errno
import time

import zmq

from common import transport
from common.errors import AddressInUse
from common.security import revocations

REBIND_LIMIT_S = 5.0
"""How long an address may take to be free again after this process left it, in seconds."""


class CutOff:
    """Ends all connections of bound sockets when a client was revoked: a handshake asks who may
    connect, and a connection that stands asks nothing more. Those who still may come back by
    themselves, as after any broken connection.

    Args:
        sockets: each bound to one address, which need not be the one that others are told.
    """

    def __init__(self, *sockets: zmq.Socket[bytes]) -> None:
        bound = [(socket, transport.bound_endpoint(socket)) for socket in sockets]
        self._bound = [(s, address) for s, address in bound if not address.startswith("inproc://")]
        self._context = sockets[0].context
        self._seen = revocations(self._context)

    def poll(self) -> None:
        """Called by the thread that owns the sockets, now and then: costs next to nothing.

        Raises AddressInUse when another process took an address meanwhile.
        """
        now = revocations(self._context)
        if now != self._seen:
            self._seen = now
            for socket, address in self._bound:
                _rebind(socket, address)


def _rebind(socket: zmq.Socket[bytes], address: str) -> None:
    # The connections that a listener accepted end with it.
    socket.unbind(address)
    deadline_s = time.monotonic() + REBIND_LIMIT_S
    while True:
        # ZeroMQ goes on closing them only when the socket's own thread calls it.
        socket.get(zmq.EVENTS)
        try:
            socket.bind(address)
            return
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline_s:
                raise AddressInUse(
                    f"{address} was taken by another process ({error.strerror}) while this one "
                    "cut off a client that was revoked"
                ) from error
        time.sleep(0.001)
