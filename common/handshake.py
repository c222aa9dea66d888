"""Why a connecting socket gets no connection, in words.

ZeroMQ tries again in silence, or gives up in silence. What its monitor reports, and one look at how
the other side greets (ZMTP 3, RFC 23), tell what is wrong with the keys.
"""

import contextlib
import socket
from urllib.parse import urlsplit

import zmq

from common.errors import JoinRefused
from common.keys import Keys

FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
GREETING_TIMEOUT_S = 0.5
SURE = 3
"""Handshakes that break off one after the other, each with a server there, until it is the key."""
_REFUSED = 400
# Signature and version 3.0. A server that has read so much says how it authenticates; one that has
# read a mechanism which it does not like might hang up before.
_GREETING = b"\xff" + 8 * b"\0" + b"\x7f" + b"\x03\0"


class Handshakes:
    """The failed handshakes of one connecting socket.

    Args:
        keys: its own; None: it shows none.
    """

    def __init__(self, address: str, keys: Keys | None) -> None:
        self._address, self._keys = address, keys
        self._broken_off = 0

    def succeeded(self) -> None:
        self._broken_off = 0

    def failed(self, event: int, value: int) -> None:
        """Raises JoinRefused once it is clear that trying again does not help."""
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            if value == _REFUSED and self._keys is not None:
                raise JoinRefused(
                    f"{self._address} does not allow the key of {self._keys.source}: it was "
                    "revoked there, or never added (python -m deploy keys list DIR)"
                )
        elif value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            raise JoinRefused(self._mismatch())
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            # A server that does not hold the private half of the key hangs up without a word. So
            # does one that dies, and a proxy whose server is away: they greet nobody.
            theirs, ours = mechanism_of(self._address), "CURVE" if self._keys else "NULL"
            if theirs not in ("", ours):
                raise JoinRefused(self._mismatch())
            self._broken_off = self._broken_off + 1 if theirs else 0
            if self._keys is not None and self._broken_off >= SURE:
                raise JoinRefused(
                    f"{self._address} is another server than the one that {self._keys.source} was "
                    "made for: take a key file of its own key directory"
                )

    def _mismatch(self) -> str:
        if self._keys is None:
            return (
                f"{self._address} wants a key: make one there with python -m deploy keys add DIR "
                "NAME, and give --keys NAME.key here"
            )
        return (
            f"{self._address} has no keys, but this process has ({self._keys.source}): give both "
            "--keys, or neither"
        )


def mechanism_of(address: str) -> str:
    """How the server at a tcp or ipc address authenticates its peers: NULL, CURVE or another of
    ZMTP; empty when nobody greets there in time."""
    with contextlib.suppress(OSError), _stream(address) as stream:
        stream.settimeout(GREETING_TIMEOUT_S)
        stream.sendall(_GREETING)
        greeting = b""
        while len(greeting) < 32:
            received = stream.recv(64)
            if not received:
                return ""
            greeting += received
        if greeting[:1] == b"\xff" and greeting[9:10] == b"\x7f":
            return greeting[12:32].rstrip(b"\0").decode("ascii", "replace")
    return ""


def _stream(address: str) -> socket.socket:
    if address.startswith("ipc://"):
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.settimeout(GREETING_TIMEOUT_S)
            stream.connect(address.removeprefix("ipc://"))
        except OSError:
            stream.close()
            raise
        return stream
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname or "", parts.port or 0), GREETING_TIMEOUT_S)
