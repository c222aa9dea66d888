"""The XPUB sockets of head and weight relay: who asks for weights, and when they get the current
version.

ZeroMQ keeps every topic that a peer subscribes to, byte by byte, for as long as the peer is
connected, and bounds neither their number nor their memory. So a connection that asks for a topic
which is not ours is ended, and with it all that was kept for it.
"""

import contextlib
import os
import socket as stream_sockets
import time
from collections.abc import Collection

import zmq

from common import transport
from common.errors import MalformedMessage, Reason
from common.rejections import Rejections, quoted

SUBSCRIPTION_BYTES = 1 << 10
"""Largest frame that a subscriber may send: a topic, or a part of the handshake."""
QUEUE_MESSAGES = 1
"""Versions queued for a slow subscriber, behind the one that is on its way, before newer ones are
dropped for it: what it gets is no older than the time that two versions take to reach it."""
TURN_S = 0.02
"""Spent at once, so that a peer which subscribes without end does not hold up all else. Not so
many messages: what they leave waiting grows, and connections behind it are ended late."""
RESEND_PERIOD_S = 0.25
"""Between two times that a topic's current version is sent again. It goes to all who subscribe, so
one peer that subscribes again and again must not make it go out every time."""


def bind_publisher(
    context: zmq.Context[zmq.Socket[bytes]], address: str, *, for_this_host: bool = False
) -> tuple[zmq.Socket[bytes], str]:
    """A socket to publish weights by, and its endpoint. Arguments and errors: `transport.bind`."""
    socket, endpoint = transport.bind(
        context,
        zmq.XPUB,
        address,
        for_this_host=for_this_host,
        queue_messages=QUEUE_MESSAGES,
        max_message_bytes=SUBSCRIPTION_BYTES,
    )
    # Tell about every subscription, not only a topic's first: each wants the current version.
    socket.xpub_verbose = True
    return socket, endpoint


class Subscriptions:
    """Those of one socket of `bind_publisher`.

    Args:
        topics: those that there are.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], topics: Collection[bytes], rejections: Rejections
    ) -> None:
        self._socket, self._rejections = socket, rejections
        self._wanted: set[bytes] = set()
        self._next_s = dict.fromkeys(topics, float("-inf"))

    def take(self, now_s: float) -> list[bytes]:
        """Topics whose current version is due for subscribers that came late."""
        ends_s = time.monotonic() + TURN_S
        while time.monotonic() < ends_s:
            try:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            event = frame.bytes
            if event[1:] not in self._next_s or event[0] > 1 or frame.more:
                stranger = MalformedMessage(
                    f"a subscription to {quoted(repr(event[1:]))}", Reason.UNKNOWN_KIND
                )
                self._rejections.count(stranger, now_s)
                _end_connection(frame)
            elif event[0] == 1:
                self._wanted.add(event[1:])
        due = [topic for topic in self._wanted if now_s >= self._next_s[topic]]
        for topic in due:
            self._wanted.remove(topic)
            self._next_s[topic] = now_s + RESEND_PERIOD_S
        return due


def _end_connection(frame: zmq.Frame) -> None:
    """End the connection that a frame came by. Does nothing within a process.

    It may have ended by itself and its descriptor be another connection's by now, if it is one of
    the same host: that one is made again.
    """
    try:
        descriptor = int(frame.get(zmq.SRCFD))
        host = str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return
    with contextlib.suppress(OSError), stream_sockets.socket(fileno=os.dup(descriptor)) as peer:
        if peer.family == stream_sockets.AF_UNIX or peer.getpeername()[0] == host:
            peer.shutdown(stream_sockets.SHUT_RDWR)
