"""The actor's side of an insert: a bounded window of blocks that are not acknowledged yet.

An acknowledgement is also credit: while the window is full, the actor does not step. After a new
connection everything in the window is sent again; the server drops what it has already.
"""

import logging
import time
from collections import OrderedDict
from dataclasses import replace

import zmq

from actor.blocks import Blocks
from common import transport
from common.errors import MalformedMessage, Reason, WireError
from common.messages import Ack, Insert, Rejected
from common.metric_table import histogram
from common.packing import compressed
from common.rejections import Rejections, quoted
from common.wire_method import wire_method

PARTING_S = 10.0
"""How long a server that the head assigned to others may still acknowledge what it was sent."""

log = logging.getLogger(__name__)


class ReplayClient:
    """One actor's connection to its replay server.

    Args:
        endpoint: of the server to begin with.
        session: names this actor's inserts for as long as it lives.
        window: inserts that may be unacknowledged.
        rejections: counts what is not accepted of the server.
        compression: of images on their way to another host, as configured.
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
        self._context, self._compression = context, compression
        self._link = _Link(context, endpoint, compression, 0, 0)
        self._parting: list[_Link] = []
        self._session = session
        self._window = window
        self._rejections = rejections
        self._sequence = 0
        """Beyond all that were ever sent."""
        self._connection = 0
        """The number of the newest one, whatever server it leads to."""
        self.resent = 0
        """Inserts sent again after a new connection."""
        self.abandoned = 0
        """Inserts that a server did not acknowledge in time after this actor was assigned to
        another: nobody can tell whether they were stored, so they are not sent there."""
        self.ack_s = histogram("actor_insert_ack_seconds")

    @property
    def window_is_full(self) -> bool:
        return len(self._link.unacknowledged) >= self._window

    @property
    def unacknowledged(self) -> int:
        return sum(len(link.unacknowledged) for link in (self._link, *self._parting))

    def follow(self, endpoint: str) -> None:
        """Inserts go to this server from now on; the last one gets `PARTING_S` to acknowledge."""
        if endpoint == self._link.endpoint:
            return
        log.info("experience goes to %s now", endpoint)
        # What it was sent before is still in its window, as that server counts.
        parting = next((link for link in self._parting if link.endpoint == endpoint), None)
        if parting is not None:
            self._parting.remove(parting)
        self._link.deadline_s = time.monotonic() + PARTING_S
        self._parting.append(self._link)
        if parting is None:
            self._connection += 1
            parting = _Link(
                self._context, endpoint, self._compression, self._sequence, self._connection
            )
        self._link = parting

    def insert(self, blocks: Blocks, weights_version: int) -> None:
        """Send blocks. The window must not be full."""
        link = self._link
        message = Insert(
            self._session,
            link.sequence,
            weights_version,
            # What waits here to be acknowledged is compressed, too.
            compressed(blocks.obs, link.method),
            blocks.action,
            blocks.reward,
            blocks.row_kind,
            blocks.priority,
            oldest=next(iter(link.unacknowledged), link.sequence),
            connection=link.connection,
        )
        link.unacknowledged[link.sequence] = message, time.perf_counter()
        link.sequence += 1
        self._sequence = max(self._sequence, link.sequence)
        transport.send(link.socket, message)

    def poll(self, timeout_ms: int = 0) -> None:
        """Take acknowledgements, waiting at most `timeout_ms` for the first; send again what a
        broken connection may have lost.

        Raises WireError when the server rejects an insert.
        """
        self._take_acknowledgements(self._link, timeout_ms)
        for link in list(self._parting):
            self._take_acknowledgements(link, 0)
            late = time.monotonic() > link.deadline_s
            if late or not link.unacknowledged:
                self.abandoned += len(link.unacknowledged)
                self._parting.remove(link)
                link.close()

    def close(self) -> None:
        for link in (self._link, *self._parting):
            link.close()

    def _take_acknowledgements(self, link: "_Link", timeout_ms: int) -> None:
        if link.watch.reconnected():
            self._send_again(link)
        # Asking whether there is another message costs half of an attempt in vain.
        while transport.wait(link.socket, timeout_ms):
            timeout_ms = 0
            try:
                message = transport.receive(link.socket)
                if isinstance(message, Ack) and message.session == self._session:
                    self._acknowledge(link, message.sequence)
            except MalformedMessage as error:
                self._rejections.count(error, time.monotonic())
                continue
            if isinstance(message, Rejected):
                raise WireError(f"the replay server rejected an insert: {quoted(message.reason)}")

    def _send_again(self, link: "_Link") -> None:
        # A server without what was acknowledged takes the oldest that there is for the next one.
        oldest = next(iter(link.unacknowledged), link.sequence)
        self._connection += 1
        link.connection = self._connection
        for insert, _ in link.unacknowledged.values():
            again = replace(insert, oldest=oldest, connection=link.connection)
            transport.send(link.socket, again)
        self.resent += len(link.unacknowledged)

    def _acknowledge(self, link: "_Link", sequence: int) -> None:
        """All inserts up to this one are stored. Raises MalformedMessage for one that is yet to be
        sent."""
        if sequence >= link.sequence:
            raise MalformedMessage(
                f"insert {sequence} is acknowledged, {link.sequence} were sent", Reason.SEQUENCE
            )
        now_s, unacknowledged = time.perf_counter(), link.unacknowledged
        while unacknowledged and next(iter(unacknowledged)) <= sequence:
            _, (_, sent_s) = unacknowledged.popitem(last=False)
            self.ack_s.observe(now_s - sent_s)


class _Link:
    """A connection, and what went over it and was not acknowledged yet.

    Each has numbers of its own, from `sequence` on: a server takes them without gaps, whatever
    others are sent meanwhile. They begin beyond all before, for it may be a server that has been
    sent some.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        compression: str,
        sequence: int,
        connection: int,
    ) -> None:
        self.endpoint, self.sequence, self.connection = endpoint, sequence, connection
        self.method = wire_method(endpoint, compression)
        self.socket, self.watch = transport.connect_watched(context, zmq.DEALER, endpoint)
        self.unacknowledged: OrderedDict[int, tuple[Insert, float]] = OrderedDict()
        self.deadline_s = 0.0
        """Once another took its place."""

    def close(self) -> None:
        self.watch.close()
        self.socket.close()
