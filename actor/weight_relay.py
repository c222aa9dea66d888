"""The weight relay: one subscription for all processes of a host that act.

The head sends each version once to every host instead of once to every actor; here it goes on over
the loopback interface. Messages are passed on as they came, byte by byte. Who subscribes late gets
the newest version, as from the head.
"""

import contextlib
import threading
import time
from collections.abc import Callable

import zmq

from actor.options import MemberOptions
from actor.versions import newer_weights
from common import transport
from common.membership import Membership
from common.messages import ACTING, Serving
from common.metrics import Telemetry, Values
from common.process import loopback_id
from common.subscriptions import QUEUE_MESSAGES, Subscriptions, bind_publisher

POLL_MS = 20


def run_weight_relay(
    options: MemberOptions,
    context: zmq.Context[zmq.Socket[bytes]],
    stop: threading.Event,
    ready: Callable[[str], None],
) -> None:
    """Relay until the head says stop or `stop` is set. `ready` is called with the address once
    there are weights."""
    outgoing, endpoint = bind_publisher(context, options.bind, for_this_host=True)
    with (
        contextlib.closing(outgoing),
        Membership(
            context,
            options.connect,
            "relay",
            preferred_number=options.number,
            metrics=options.metrics,
        ) as membership,
    ):
        if membership.join(time.monotonic, stop, options.join_timeout_s) is not None:
            relay = _WeightRelay(context, membership, outgoing, stop)
            try:
                relay.run(endpoint, ready)
            finally:
                relay.close()


class _WeightRelay:
    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        membership: Membership,
        outgoing: zmq.Socket[bytes],
        stop: threading.Event,
    ) -> None:
        self._membership, self._outgoing, self._stop = membership, outgoing, stop
        self._endpoint = membership.weights_endpoint
        self._incoming = transport.connect(
            context, zmq.SUB, self._endpoint, queue_messages=QUEUE_MESSAGES
        )
        self._incoming.subscribe(ACTING)
        self._subscriptions = Subscriptions(outgoing, (ACTING,), membership.rejections)
        self._joins = 0
        self._frames: list[bytes] = []
        """The newest version, as it came."""
        self._newest = (-1, -1)
        self._versions = self._bytes = 0
        self._telemetry = Telemetry(self._values)

    def run(self, endpoint: str, ready: Callable[[str], None]) -> None:
        membership, said = self._membership, 0
        while not (self._stop.is_set() or membership.stop_requested):
            membership.poll(time.monotonic(), self._telemetry)
            if membership.joins != self._joins:
                self._follow_head()
            if self._frames and said != membership.contacts:
                # Nobody is told of this process before it can answer.
                membership.send(Serving(membership.welcome.session, endpoint, loopback_id()))
                if not said:
                    ready(endpoint)
                said = membership.contacts
            transport.wait_any([self._incoming, self._outgoing], POLL_MS)
            self._take_versions()
            if self._subscriptions.take(time.monotonic()) and self._frames:
                self._send()

    def close(self) -> None:
        self._incoming.close()

    def _follow_head(self) -> None:
        """The head was restarted, and may have gone back to an earlier version; or it had given
        this process up."""
        if self._joins:
            self._newest, self._frames = (-1, -1), []
            # Its newest version may have come before its welcome: it answers every subscription.
            self._incoming.unsubscribe(ACTING)
            self._incoming.subscribe(ACTING)
        self._joins = self._membership.joins
        endpoint = self._membership.weights_endpoint
        if endpoint != self._endpoint:
            transport.reconnect(self._incoming, self._endpoint, endpoint)
            self._endpoint = endpoint

    def _take_versions(self) -> None:
        while (frames := transport.receive_frames(self._incoming)) is not None:
            self._bytes += sum(map(len, frames))
            newer = newer_weights(frames[1:], self._newest, self._membership.rejections)
            if newer is not None:
                self._newest = newer.epoch, newer.version
                self._versions += 1
                self._frames = [bytes(frame) for frame in frames]
                self._send()

    def _send(self) -> None:
        with contextlib.suppress(zmq.Again):
            self._outgoing.send_multipart(self._frames, zmq.NOBLOCK, copy=False)

    def _values(self) -> Values:
        return {
            "relay_versions_total": self._versions,
            "relay_received_bytes_total": self._bytes,
            **self._membership.rejections.values(),
            "relay_weights_version": self._newest[1],
        }
