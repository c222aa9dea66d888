"""Asks a head how its run goes."""

import time
from typing import Any

import zmq

from common import transport
from common.errors import ConfigError, WireError
from common.messages import Refused, Status, StatusRequest

REQUEST_PERIOD_S = 0.25

Plain = dict[str, Any]
"""`learner.status.RunStatus` as plain data."""


class StatusClient:
    """Asks a head for its status, again and again, without ever waiting for it.

    Raises ConfigError when the address is none.
    """

    def __init__(self, head: str, context: zmq.Context[zmq.Socket[bytes]] | None = None) -> None:
        self._context = context or zmq.Context()
        self._owns_context = context is None
        try:
            self._socket = transport.connect(self._context, zmq.DEALER, head)
        except ConfigError:
            if self._owns_context:
                self._context.term()
            raise
        self._socket.linger = 0
        self._next_s = 0.0
        self.refusal = ""
        """Why there is none, if the head said so or speaks another language."""

    def latest(self) -> Plain | None:
        """The newest status that came since the last call, if any."""
        latest = None
        try:
            while (message := transport.receive(self._socket)) is not None:
                if isinstance(message, Status):
                    latest = message.status
                elif isinstance(message, Refused):
                    self.refusal = message.reason
        except WireError as error:
            self.refusal = str(error)
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + REQUEST_PERIOD_S
            transport.send(self._socket, StatusRequest())
        return latest

    def close(self) -> None:
        self._socket.close()
        if self._owns_context:
            self._context.term()
