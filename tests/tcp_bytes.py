"""What TCP has carried on this process's connections, as the kernel counts it."""

import contextlib
import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_INFO_BYTES = 216
_COUNT = struct.Struct("=Q")
_RECEIVED_AT, _SENT_AT, _SENT_AGAIN_AT = 128, 200, 208
"""Of tcpi_bytes_received, tcpi_bytes_sent and tcpi_bytes_retrans in Linux's struct tcp_info."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Bytes on some connections, without TCP's and IP's headers."""

    connections: int = 0
    sent: int = 0
    """Each byte once, however often TCP sent it."""
    received: int = 0

    def __add__(self, other: "Carried") -> "Carried":
        return Carried(
            self.connections + other.connections,
            self.sent + other.sent,
            self.received + other.received,
        )


def carried(info: bytes) -> Carried:
    """One connection, by what getsockopt(TCP_INFO) gave."""
    received, sent, again = (
        _COUNT.unpack_from(info, at)[0] for at in (_RECEIVED_AT, _SENT_AT, _SENT_AGAIN_AT)
    )
    return Carried(1, sent - again, received)


def carried_by_port() -> dict[int, Carried]:
    """By the port that was listened at: this process's own, or another's that it connected to.

    Connections that have ended do not count any more.
    """
    own: dict[int, list[tuple[int, Carried]]] = {}
    listening: set[int] = set()
    for connection in _tcp_sockets():
        port = connection.getsockname()[1]
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listening.add(port)
            continue
        with contextlib.suppress(OSError):  # It is connecting, or its peer is gone.
            far = connection.getpeername()[1]
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
            own.setdefault(port, []).append((far, carried(info)))
    total: dict[int, Carried] = {}
    for port, connections in own.items():
        for far, found in connections:
            served_at = port if port in listening else far
            total[served_at] = total.get(served_at, Carried()) + found
    return total


def port_of(endpoint: str) -> int:
    """Of tcp://HOST:PORT."""
    return int(endpoint.rpartition(":")[2])


def at_ports(found: Mapping[int, Carried], ports: Collection[int]) -> Carried:
    """The sum of those that were listened at one of these ports."""
    return sum((found[port] for port in ports if port in found), Carried())


def _tcp_sockets() -> Iterator[socket.socket]:
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # The listing's own is closed by now.
            if not entry.is_socket():
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as found:
                if found.family in (socket.AF_INET, socket.AF_INET6):
                    yield found
