"""ZeroMQ sockets by address: `tcp://HOST:PORT`, `ipc://PATH` or, within one process, `inproc://NAME`.

All roles send and receive through here, so that limits on queues and message sizes, heartbeats of
half-open connections, keys and the errors of a busy port are the same everywhere.

Where the context has keys (`common/security.py`), every connection but those within the process is
encrypted by CURVE: who listens proves to hold the run's key, who connects is on its allow-list.
"""

import errno
import ipaddress
import re
import socket as stream_sockets
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import zmq

from common import authentication, codec
from common.codec import Frame
from common.errors import AddressInUse, ConfigError
from common.messages import MAX_MESSAGE_BYTES, Message
from common.reconnect_watch import ReconnectWatch
from common.security import SecureContext, security_of

QUEUE_MESSAGES = 1_000
"""Messages kept per peer and direction before ZeroMQ blocks or drops (its HWM)."""
HANDSHAKE_MS = 10_000
"""A peer that has not said who it is by then is disconnected."""
BACKLOG = 1_024
"""Connections that the system keeps until they are accepted: a flood must not crowd others out."""
LINGER_MS = 500
"""How long a closing socket goes on sending what is queued."""
LOST_S = 15
"""A connection whose other end has acknowledged nothing for so long is given up, and made anew: a
partition, a host that vanished. Told by TCP, which hears of every packet."""
PROBE_PERIOD_S = 5
"""Between two questions, on a connection where nothing is sent, whether the other end is there."""
FRAME_LIMIT_S = 120
"""A frame may take so long on its way. ZeroMQ's own heartbeats, which go all the way where TCP ends
at a proxy, hear of whole frames alone: with a shorter limit, weights of 7 MB never come through a
pipe that needs longer for them (docs/adr/0023-a-slow-network-is-not-a-dead-one.md)."""
CONNECT_LIMIT_S = 2
"""An attempt to connect, of which the next looks the name up again. Left to itself, TCP asks ever
less often, and half a minute passes before it sees that the other end is back."""
SUBSCRIBER_BUFFER_BYTES = 1 << 10
"""The system's receive buffer for each subscriber over TCP (Linux makes 2 KB of it). ZeroMQ keeps
each topic asked for, reads what has arrived even where the connection was ended, and goes through
the topics of all whenever one leaves: there must not be thousands of them in a buffer."""
COPIED_BYTES = 64 << 10
"""Smaller frames are copied, which is cheaper than telling when ZeroMQ has done with one."""

# pyzmq's own are enumerations, whose every use in the hot loops costs as much as the call.
_NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)
_ANY_PORT = (":*", ":0")
_TCP = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:/]+):(?P<port>[0-9]{1,5}|\*)")


def _make(
    context: zmq.Context[zmq.Socket[bytes]],
    socket_type: int,
    address: str,
    queue_messages: int,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    received_messages: int | None = None,
) -> zmq.Socket[bytes]:
    socket = context.socket(socket_type)
    socket.linger = LINGER_MS
    socket.rcvhwm = queue_messages if received_messages is None else received_messages
    # What a SUB sends are its subscriptions: one that found no room would be lost for good.
    socket.sndhwm = 0 if socket_type == zmq.SUB else queue_messages
    if socket_type == zmq.XPUB:
        socket.rcvbuf = SUBSCRIBER_BUFFER_BYTES
    socket.maxmsgsize = max_message_bytes
    socket.handshake_ivl = HANDSHAKE_MS
    socket.backlog = BACKLOG
    socket.ipv6 = "[" in address
    socket.tcp_keepalive, socket.tcp_keepalive_cnt = 1, max(LOST_S // PROBE_PERIOD_S, 1)
    socket.tcp_keepalive_idle = socket.tcp_keepalive_intvl = PROBE_PERIOD_S
    socket.tcp_maxrt = LOST_S * 1_000
    # ZMTP pings. The side that connects sends them; the other learns from them how long silence may
    # last (TTL) and need not ping its thousand peers as well. A subscriber does not: the queue of
    # one that is busy is full, and libzmq ends the whole process when it pings on a connection that
    # was lost meanwhile (its issues 4364, 3937).
    if socket_type not in (zmq.ROUTER, zmq.XPUB, zmq.SUB):
        socket.heartbeat_ivl = PROBE_PERIOD_S * 1_000
        socket.heartbeat_timeout = socket.heartbeat_ttl = FRAME_LIMIT_S * 1_000
    socket.reconnect_ivl, socket.reconnect_ivl_max = 50, 1_000
    socket.connect_timeout = CONNECT_LIMIT_S * 1_000
    return socket


def bind(
    context: zmq.Context[zmq.Socket[bytes]],
    socket_type: int,
    address: str,
    *,
    for_this_host: bool = False,
    queue_messages: int = QUEUE_MESSAGES,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    received_messages: int | None = None,
) -> tuple[zmq.Socket[bytes], str]:
    """A bound socket and the endpoint it really has (`:0` and `:*` take a free port).

    Args:
        for_this_host: its peers are processes of this host with the same key file; without keys
            this makes no difference.
        queue_messages: kept per peer and direction; what finds no room is not sent.
        max_message_bytes: a larger frame from a peer closes its connection.
        received_messages: kept of each peer until they are looked at; None: `queue_messages`.

    Raises:
        AddressInUse: another process listens there.
        ConfigError: no such address here, or it is open to the network and there are neither keys
            nor --insecure, or the keys are those of a client.
    """
    security = security_of(context)
    if security.keys is None and not security.insecure and not is_local(address):
        raise ConfigError(
            f"refusing to listen on {address}: anyone who can reach it could write experience and "
            "read weights. Give --keys DIR, made by python -m deploy keys new DIR, or use "
            "tcp://127.0.0.1:PORT, or add --insecure on a network you trust"
        )
    if address.endswith(_ANY_PORT):
        address = address[: address.rindex(":")] + ":*"
    _check(address, any_port=True)
    if _is_served(address):
        raise AddressInUse(
            f"{address} is in use by another process: stop it or choose another path"
        )
    socket = _make(
        context, socket_type, address, queue_messages, max_message_bytes, received_messages
    )
    try:
        _serve_with_keys(socket, address, for_this_host)
        socket.bind(address)
    except ConfigError:
        socket.close()
        raise
    except zmq.ZMQError as error:
        socket.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"{address} is in use by another process: stop it or choose another port "
                "(port 0 takes a free one)"
            ) from error
        raise ConfigError(f"cannot listen on {address}: {error.strerror}") from error
    return socket, bound_endpoint(socket)


def bound_endpoint(socket: zmq.Socket[bytes]) -> str:
    """Where a bound socket listens."""
    endpoint: bytes = socket.get(zmq.LAST_ENDPOINT)  # type: ignore[assignment]
    return endpoint.rstrip(b"\0").decode()


def connect(
    context: zmq.Context[zmq.Socket[bytes]],
    socket_type: int,
    address: str,
    *,
    queue_messages: int = QUEUE_MESSAGES,
) -> zmq.Socket[bytes]:
    """A socket that connects to `address`, now or whenever somebody listens there.

    Raises ConfigError when the address is not one.
    """
    _check(address, any_port=False)
    socket = _make(context, socket_type, address, queue_messages)
    try:
        _show_key(socket, address)
        _connect(socket, address)
    except ConfigError:
        socket.close()
        raise
    return socket


def connect_watched(
    context: zmq.Context[zmq.Socket[bytes]],
    socket_type: int,
    address: str,
    *,
    on_this_host: bool = False,
) -> tuple[zmq.Socket[bytes], ReconnectWatch]:
    """As `connect`, with a watch that was there before the first connection.

    Args:
        on_this_host: whoever listens there was bound `for_this_host`.
    """
    _check(address, any_port=False)
    socket = _make(context, socket_type, address, QUEUE_MESSAGES)
    watch = ReconnectWatch(socket, address)
    try:
        _show_key(socket, address, on_this_host)
        _connect(socket, address)
    except ConfigError:
        watch.close()
        socket.close()
        raise
    return socket, watch


def _connect(socket: zmq.Socket[bytes], address: str) -> None:
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise ConfigError(
            f"{address!r} is no address: expected tcp://HOST:PORT or ipc://PATH ({error.strerror})"
        ) from error


def check_address(address: str) -> None:
    """Raises ConfigError when nobody could connect to this."""
    _check(address, any_port=False)


def reconnect(
    socket: zmq.Socket[bytes], before: str, address: str, *, on_this_host: bool = False
) -> None:
    """Have a socket that is connected to `before` connect to `address` instead.

    Args:
        on_this_host: whoever listens there was bound `for_this_host`.
    """
    try:
        socket.disconnect(before)
    except zmq.ZMQError as error:
        # Within a process a connection ends with its other end.
        if error.errno != errno.ENOENT:
            raise
    _show_key(socket, address, on_this_host)
    _connect(socket, address)


def _serve_with_keys(socket: zmq.Socket[bytes], address: str, for_this_host: bool) -> None:
    context, keys = socket.context, security_of(socket.context).keys
    if keys is None or address.startswith("inproc://"):
        return
    if not (keys.serves or for_this_host):
        raise ConfigError(
            f"{keys.source} is a client's key, with which nobody can listen for a run: give "
            "--keys DIR, the run's key directory"
        )
    assert isinstance(context, SecureContext)
    authenticator = context.authenticator(keys)
    socket.curve_server, socket.curve_secretkey = 1, keys.secret
    socket.zap_domain = authentication.HOST if for_this_host else authentication.RUN
    authenticator.watch(socket)


def _show_key(socket: zmq.Socket[bytes], address: str, on_this_host: bool = False) -> None:
    keys = security_of(socket.context).keys
    if keys is not None and not address.startswith("inproc://"):
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        socket.curve_serverkey = keys.public if on_this_host else keys.server


def _check(address: str, *, any_port: bool) -> None:
    """Raises ConfigError when the address is none that zapex uses. `any_port`: whether the choice
    of a free port may be left open."""
    scheme, _, rest = address.partition("://")
    tcp = _TCP.fullmatch(address)
    if tcp is not None:
        port = tcp["port"]
        valid = any_port if port in ("*", "0") else int(port) <= 65_535
    else:
        valid = scheme in ("ipc", "inproc") and bool(rest)
    if not valid:
        raise ConfigError(
            f"{address!r} is no address: expected tcp://HOST:PORT with a port up to 65535, "
            "or ipc://PATH"
        )
    if tcp is not None and not _is_name(tcp["host"]):
        raise ConfigError(
            f"{address!r} is no address: {tcp['host']!r} is no name of a host, each part of which "
            "has 1 to 63 characters"
        )


def _is_name(host: str) -> bool:
    """Whether the host can be looked up: Python's sockets raise no OSError for one that cannot."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def is_endpoint(address: str) -> bool:
    """Whether one can connect there, as far as the address itself tells."""
    try:
        _check(address, any_port=False)
        urlsplit(address)
    except (ConfigError, ValueError):
        return False
    return "\0" not in address


def _is_served(address: str) -> bool:
    """Whether an ipc path is another process's, or a file. ZeroMQ would take it away, for it cannot
    tell a living socket from one that a crash left behind."""
    path = address.removeprefix("ipc://")
    if path == address or not Path(path).exists():
        return False
    if not Path(path).is_socket():
        return True
    with stream_sockets.socket(stream_sockets.AF_UNIX, stream_sockets.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0


def is_local(address: str) -> bool:
    """Whether only this host can reach the address."""
    if address.startswith(("inproc://", "ipc://")):
        return True
    try:
        host = urlsplit(address).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reachable(endpoint: str, via: str) -> str:
    """The endpoint of a peer that listens on all interfaces, as seen from where `via` leads.

    A head bound to tcp://0.0.0.0 cannot know the name others reach it by; they do.
    """
    if not endpoint.startswith("tcp://") or not via.startswith("tcp://"):
        return endpoint
    parts = urlsplit(endpoint)
    if parts.hostname not in ("0.0.0.0", "::"):
        return endpoint
    host = urlsplit(via).hostname or "127.0.0.1"
    return f"tcp://{f'[{host}]' if ':' in host else host}:{parts.port}"


def send(
    socket: zmq.Socket[bytes],
    message: Message,
    *,
    prefix: Sequence[bytes] = (),
) -> bool:
    """Send a message behind `prefix` frames (a ROUTER's peer, a PUB's topic).

    Returns False when the queue is full or the peer is gone: the message is dropped, whole.
    Large frames are not copied: arrays must stay unchanged.
    """
    frames = [*prefix, *codec.encode(message)]
    last = frames.pop()
    try:
        # Once ZeroMQ has taken a message's first frame it takes the others.
        for frame in frames:
            socket.send(frame, _MORE, copy=len(frame) < COPIED_BYTES)
        socket.send(last, _NOBLOCK, copy=len(last) < COPIED_BYTES)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno == errno.EHOSTUNREACH:
            return False
        raise
    return True


def has_message(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message can be received without waiting."""
    return wait(socket, 0)


def wait(socket: zmq.Socket[bytes], timeout_ms: int) -> bool:
    """Whether a message can be received, now or after at most `timeout_ms`."""
    # `socket.poll` makes a poller each time, which costs as much as receiving a message.
    return bool(zmq.zmq_poll([(socket, _POLLIN)], timeout_ms))


def wait_any(sockets: Sequence[zmq.Socket[bytes]], timeout_ms: int) -> bool:
    """As `wait`, for a message at any of them."""
    if not sockets:
        time.sleep(timeout_ms / 1e3)  # ZeroMQ would not wait for nothing.
        return False
    return bool(zmq.zmq_poll([(socket, _POLLIN) for socket in sockets], timeout_ms))


def receive_frames(socket: zmq.Socket[bytes]) -> list[Frame] | None:
    """The next message's frames without waiting, or None."""
    try:
        frame = socket.recv(_NOBLOCK, copy=False)
    except zmq.Again:
        return None
    frames: list[Frame] = [frame.buffer]
    while frame.more:
        frame = socket.recv(_NOBLOCK, copy=False)
        frames.append(frame.buffer)
    return frames


def receive(socket: zmq.Socket[bytes]) -> Message | None:
    """The next message without waiting, or None. Raises WireError when it is not acceptable."""
    frames = receive_frames(socket)
    return None if frames is None else codec.decode(frames)
