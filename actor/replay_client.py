"""The actor's side of an insert: a bounded window of blocks that are not acknowledged yet.

An acknowledgement is also credit: while the window is full, the actor does not step. After a new
connection everything in the window is sent again; the server drops what it has already.
"""

import time
from collections import OrderedDict

import zmq

from actor.blocks import Blocks
from common import transport
from common.compression import compressed
from common.errors import MalformedMessage, Reason, WireError
from common.messages import Ack, Insert, Rejected
from common.metric_table import histogram
from common.rejections import Rejections, quoted


class ReplayClient:
    """One actor's connection to a replay server.

    Args:
        session: names this actor's inserts for as long as it lives.
        window: inserts that may be unacknowledged.
        rejections: counts what is not accepted of the server.
        compression: method for images.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        session: int,
        window: int,
        rejections: Rejections,
        compression: str = "none",
    ) -> None:
        self._socket, self._watch = transport.connect_watched(context, zmq.DEALER, endpoint)
        self._session = session
        self._window = window
        self._rejections = rejections
        # Nothing leaves the process on the way to a thread.
        self._compression = "none" if endpoint.startswith("inproc://") else compression
        self._unacknowledged: OrderedDict[int, tuple[Insert, float]] = OrderedDict()
        self._sequence = 0
        self.resent = 0
        """Inserts sent again after a new connection."""
        self.ack_s = histogram("actor_insert_ack_seconds")

    @property
    def window_is_full(self) -> bool:
        return len(self._unacknowledged) >= self._window

    @property
    def unacknowledged(self) -> int:
        return len(self._unacknowledged)

    def insert(self, blocks: Blocks, weights_version: int) -> None:
        """Send blocks. The window must not be full."""
        message = Insert(
            self._session,
            self._sequence,
            weights_version,
            # What waits here to be acknowledged is compressed, too.
            compressed(blocks.obs, self._compression),
            blocks.action,
            blocks.reward,
            blocks.row_kind,
            blocks.priority,
            oldest=next(iter(self._unacknowledged), self._sequence),
        )
        self._unacknowledged[self._sequence] = message, time.perf_counter()
        self._sequence += 1
        transport.send(self._socket, message)

    def poll(self, timeout_ms: int = 0) -> None:
        """Take acknowledgements, waiting at most `timeout_ms` for the first; send again what a
        broken connection may have lost.

        Raises WireError when the server rejects an insert.
        """
        if self._watch.reconnected():
            for insert, _ in self._unacknowledged.values():
                transport.send(self._socket, insert)
            self.resent += len(self._unacknowledged)
        # Asking whether there is another message costs half of an attempt in vain.
        while transport.wait(self._socket, timeout_ms):
            timeout_ms = 0
            try:
                message = transport.receive(self._socket)
                if isinstance(message, Ack) and message.session == self._session:
                    self._acknowledge(message.sequence)
            except MalformedMessage as error:
                self._rejections.count(error, time.monotonic())
                continue
            if isinstance(message, Rejected):
                raise WireError(f"the replay server rejected an insert: {quoted(message.reason)}")

    def _acknowledge(self, sequence: int) -> None:
        """All inserts up to this one are stored. Raises MalformedMessage for one that is yet to be
        sent."""
        if sequence >= self._sequence:
            raise MalformedMessage(
                f"insert {sequence} is acknowledged, {self._sequence} were sent", Reason.SEQUENCE
            )
        now_s = time.perf_counter()
        while self._unacknowledged and next(iter(self._unacknowledged)) <= sequence:
            _, (_, sent_s) = self._unacknowledged.popitem(last=False)
            self.ack_s.observe(now_s - sent_s)

    def close(self) -> None:
        self._watch.close()
        self._socket.close()
