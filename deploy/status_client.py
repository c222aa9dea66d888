"""Asks a head how its run goes."""

import time
from typing import Any

import zmq

from common import transport
from common.errors import ConfigError, JoinRefused, WireError
from common.messages import Refused, Status, StatusRequest
from common.security import NOTHING_TOLD, SecureContext, Security

REQUEST_PERIOD_S = 0.25

Plain = dict[str, Any]
"""`learner.status.RunStatus` as plain data."""


class StatusClient:
    """Asks a head for its status, again and again, without ever waiting for it.

    Args:
        context: of the caller, with keys of its own; None: one is made.
        security: whose keys the head is shown, where there is no context.

    Raises ConfigError when the address is none.
    """

    def __init__(
        self,
        head: str,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        *,
        security: Security = NOTHING_TOLD,
    ) -> None:
        self._context = context or SecureContext(security)
        self._owns_context = context is None
        try:
            self._socket, self._watch = transport.connect_watched(self._context, zmq.DEALER, head)
        except ConfigError:
            if self._owns_context:
                self._context.term()
            raise
        self._socket.linger = 0
        self._next_s = 0.0
        self.refusal = ""
        """Why there is none, if the head said so, speaks another language or wants another key."""

    def latest(self) -> Plain | None:
        """The newest status that came since the last call, if any."""
        latest = None
        try:
            self._watch.reconnected()
            while (message := transport.receive(self._socket)) is not None:
                if isinstance(message, Status):
                    latest = message.status
                elif isinstance(message, Refused):
                    self.refusal = message.reason
        except (WireError, JoinRefused) as error:
            self.refusal = str(error)
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + REQUEST_PERIOD_S
            transport.send(self._socket, StatusRequest())
        return latest

    def close(self) -> None:
        self._watch.close()
        self._socket.close()
        if self._owns_context:
            self._context.term()
