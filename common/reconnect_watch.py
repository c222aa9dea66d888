"""Tells a socket's owner of connections that were lost, made again, or refused."""

import logging
import time

import zmq
import zmq.utils.monitor

from common.handshake import FAILED, Handshakes
from common.security import security_of

WATCH_PERIOD_S = 0.01
"""Between two looks for new connections, in seconds."""

log = logging.getLogger(__name__)


class ReconnectWatch:
    """Tells when a connecting socket got a new connection, after which what was under way on the
    old one is lost and must be asked for or sent again, each of which is a line in the log; and
    when it cannot get one.

    Watches for nothing else: an unread monitor queue would stall the socket's reconnection.
    `inproc` peers never reconnect and are not watched.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str) -> None:
        self._socket = socket
        self._monitor = (
            None
            if address.startswith("inproc://")
            else socket.get_monitor_socket(
                zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | FAILED
            )
        )
        self._handshakes = Handshakes(address, security_of(socket.context).keys)
        self._address = address
        self._lost_s: float | None = None
        """Since when there is no connection in place of the last one."""
        self._next_look_s = 0.0

    def reconnected(self) -> bool:
        """Whether a connection was made in place of one that was lost, and that was not said yet.

        Looks every WATCH_PERIOD_S, however often it is asked. Raises JoinRefused when there will be
        no connection, for one of the two sides has no key, or another one than it should have.
        """
        again = False
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return False
        self._next_look_s = now_s + WATCH_PERIOD_S
        while self._monitor is not None and self._monitor.poll(0):
            told = zmq.utils.monitor.recv_monitor_message(self._monitor)
            event = told["event"]
            if event & FAILED:
                self._handshakes.failed(event, told["value"])
            elif event == zmq.EVENT_DISCONNECTED:
                if self._lost_s is None:
                    log.warning("lost the connection to %s", self._address)
                    self._lost_s = now_s
            else:
                self._handshakes.succeeded()
                if self._lost_s is not None:
                    away_s = now_s - self._lost_s
                    log.info("connected to %s again after %.1f s", self._address, away_s)
                    again, self._lost_s = True, None
        return again

    @property
    def broken(self) -> bool:
        """Whether the connection was lost when `reconnected` looked last, with no new one yet."""
        return self._lost_s is not None

    def close(self) -> None:
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close()
            self._monitor = None
