"""What strangers do to sockets: each attack goes on until it is told to stop.

Some speak TCP and nothing that ZeroMQ knows, some ZMTP and nothing that zapex knows, some zapex
and nothing that is true. Where a run has keys, they show the ones that they were given, or none.
"""

import contextlib
import errno
import itertools
import os
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import numpy as np
import zmq

from common.keys import Keys
from common.messages import (
    ACTING,
    Ack,
    InferenceRequest,
    Insert,
    Join,
    Message,
    SampleRequest,
    StatusRequest,
)
from tests.fuzz.mutations import Mutator
from tests.fuzz.peers import Liar, frames_of

Stop = threading.Event
HELD_CONNECTIONS = 40
"""Of each attack that keeps its connections open."""
PAUSE_S = 0.002
"""After some messages: one attacker takes a share of the machine, not all of it."""
LONG_TOPIC = 100_000
"""Bytes: far beyond what the port of weights takes, and not beyond ZeroMQ's own SUB."""


@dataclass(frozen=True)
class Ports:
    """Where a run listens, an insert as its actors send them, and what whoever comes shows."""

    head: str
    weights: str
    replay: str
    inference: str
    insert: Insert
    keys: Keys | None = None
    """None: attackers have none."""
    server_key: bytes = b""
    """The run's public key, which is no secret; empty: it has none."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        return (self.head, self.weights, self.replay, self.inference)


Attack = Callable[[Ports, Stop], int]
"""Returns how often something was sent, or tried."""

# ---------------------------------------------------------------------------------- TCP, not ZMTP

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
"""Of ZMTP 3.1 without security: signature, version, mechanism, as-server, filler."""


def ready(socket_type: bytes) -> bytes:
    """The command that ends the handshake."""
    metadata = b"\x0bSocket-Type" + struct.pack(">I", len(socket_type)) + socket_type
    return bytes([4, 6 + len(metadata)]) + b"\x05READY" + metadata


READY = ready(b"DEALER")
LONG_FRAME = b"\x02" + struct.pack(">Q", 1 << 40)
"""The header of a frame of a terabyte."""
ALMOST = b"\x02" + struct.pack(">Q", (1 << 20) - 1) + bytes(1_000)
"""A megabyte is announced and allowed; a thousand bytes come."""

GARBAGE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: head\r\n\r\n" * 20,
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "ZMTP 1": b"\x01\x00" + b"\x0a\x00" + b"x" * 9,
    "ZMTP 1, long": b"\xff" + struct.pack(">Q", 1 << 40) + b"\x00" + bytes(100),
    "ZMTP 2": b"\xff" + bytes(7) + b"\x01\x7f\x01\x05" + b"\x00\x00" + bytes(50),
    "other mechanism": GREETING.replace(b"NULL", b"XXXX") + bytes(500),
    "no such command": GREETING + b"\x04\x06\x05PEEPO" + b"\x04\x00",
    "no socket type": GREETING + b"\x04\x06\x05READY" + b"\x00\x05hello",
    "long properties": GREETING + b"\x06" + struct.pack(">Q", 1 << 31) + b"\x05READY",
    "a terabyte": GREETING + READY + LONG_FRAME + bytes(10_000),
    "a message that is not finished": GREETING + READY + b"\x01\x01x" * 5_000,
}


def open_stream(endpoint: str) -> socket.socket | None:
    where = urlsplit(endpoint)
    try:
        return socket.create_connection((where.hostname, where.port or 0), timeout=1.0)
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise
        return None


def say(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(data)


def garbage(ports: Ports, stop: Stop) -> int:
    """Connections that say what is no ZMTP, or stops being it, and hang up."""
    chance = random.Random(1)
    for count in itertools.count():
        if stop.wait(PAUSE_S):
            return count
        connection = open_stream(chance.choice(ports.endpoints))
        if connection is not None:
            with connection:
                noise = chance.randbytes(chance.randrange(1, 2_000))
                say(connection, chance.choice([*GARBAGE.values(), noise, GREETING + noise]))
    return 0


def slow_loris(ports: Ports, stop: Stop) -> int:
    """Connections that begin to say something and are silent then, replaced as they are ended."""
    beginnings = (b"", b"\xff", GREETING[:11], GREETING[:40], GREETING, GREETING + READY, ALMOST)
    held: list[socket.socket] = []
    with contextlib.ExitStack() as ends:
        for count in itertools.count():
            if stop.wait(PAUSE_S * 10):
                return count
            connection = open_stream(ports.endpoints[count % 4])
            if connection is None:
                continue
            ends.enter_context(connection)
            say(connection, beginnings[count % len(beginnings)])
            held.append(connection)
            if len(held) > HELD_CONNECTIONS:
                held.pop(0).close()
    return 0


def endless_greeting(ports: Ports, stop: Stop) -> int:
    """Connections whose greeting, or handshake, never ends."""
    streams = (b"\xff" * 4_096, GREETING[:12] * 300, b"\x00" * 4_096)
    count = 0
    with contextlib.ExitStack() as ends:
        connections: list[tuple[socket.socket, bytes]] = []
        while not stop.wait(PAUSE_S * 5):
            if len(connections) < HELD_CONNECTIONS:
                opened = open_stream(ports.endpoints[count % 4])
                if opened is not None:
                    ends.enter_context(opened).setblocking(False)
                    connections.append((opened, streams[count % len(streams)]))
            for pair in list(connections):
                try:
                    pair[0].send(pair[1])
                except BlockingIOError:
                    pass
                except OSError:
                    connections.remove(pair)
                    pair[0].close()
            count += 1
    return count


def connection_flood(ports: Ports, stop: Stop, connections: int = 2_000) -> int:
    """Very many connections at once, half of them with a whole handshake; all are held."""
    with contextlib.ExitStack() as ends:
        selector = ends.enter_context(selectors.DefaultSelector())
        for count in range(connections):
            if stop.is_set():
                break
            where = urlsplit(ports.endpoints[count % 4])
            opened = ends.enter_context(socket.socket())
            opened.setblocking(False)
            opened.connect_ex((where.hostname, where.port))
            selector.register(opened, selectors.EVENT_WRITE, count)
            if count % 100 == 99:
                _greet(selector)
                time.sleep(PAUSE_S)
        while not stop.wait(0.05):
            _greet(selector)
    return connections


def _greet(selector: selectors.BaseSelector) -> None:
    for key, _ in selector.select(0.0):
        selector.unregister(key.fileobj)
        if key.data % 2:
            assert isinstance(key.fileobj, socket.socket)
            say(key.fileobj, GREETING + READY)


# ------------------------------------------------------------------------------- ZMTP, not zapex


@contextlib.contextmanager
def peer_of(
    endpoint: str, keys: Keys | None, socket_type: int = zmq.DEALER
) -> Iterator[zmq.Socket[bytes]]:
    """A socket with these keys, or none, that gives up soon."""
    with zmq.Context() as context, context.socket(socket_type) as opened:
        opened.linger = 0
        opened.sndtimeo = 50
        if keys is not None:
            opened.curve_publickey, opened.curve_secretkey = keys.public, keys.secret
            opened.curve_serverkey = keys.server
        opened.connect(endpoint)
        yield opened


def send(peer: zmq.Socket[bytes], frames: list[bytes]) -> None:
    """Whoever does not take it does not get it. Answers are thrown away."""
    with contextlib.suppress(zmq.Again):
        peer.send_multipart(frames)
        while True:
            peer.recv(zmq.NOBLOCK)


def broken_frames(ports: Ports, stop: Stop) -> int:
    """The decoder's fuzzer, at every port."""
    mutator = Mutator("abuse")
    with contextlib.ExitStack() as ends:
        peers = [
            ends.enter_context(peer_of(endpoint, ports.keys))
            for endpoint in (ports.head, ports.replay, ports.inference)
        ]
        for count in itertools.count():
            if count % 20 == 0 and stop.wait(PAUSE_S):
                return count
            send(peers[count % 3], mutator.next() or [b""])
    return 0


def allocation_bombs(ports: Ports, stop: Stop) -> int:
    """Frames beyond what a port takes, and as many as it takes of the largest it does."""
    for count in itertools.count():
        if stop.wait(0.05):
            return count
        endpoint = ports.endpoints[count % 4]
        if endpoint == ports.weights and ports.keys is not None:
            with peer_of(endpoint, ports.keys, zmq.SUB) as peer:
                peer.subscribe(bytes(LONG_TOPIC))
                stop.wait(0.02)
            continue
        if endpoint == ports.weights:
            # By hand: a SUB socket of ZeroMQ falls over its own topics of a megabyte.
            connection = open_stream(endpoint)
            if connection is not None:
                with connection:
                    topic = b"\x02" + struct.pack(">Q", 1 << 20) + b"\x01" + bytes((1 << 20) - 1)
                    say(connection, GREETING + ready(b"SUB") + topic)
            continue
        with peer_of(endpoint, ports.keys) as peer:
            send(peer, [b"\xdd\xff\xff\xff\xff", bytes((1 << 20) * (1 + count % 8))])
            stop.wait(0.02)
    return 0


def topics(ports: Ports, stop: Stop) -> int:
    """Thousands of subscriptions to what is not there, and ever again to what is."""
    count = 0
    while not stop.is_set():
        with peer_of(ports.weights, ports.keys, zmq.SUB) as peer:
            for _ in range(2_000):
                if stop.is_set():
                    break
                peer.subscribe(b"%d-" % count + os.urandom(100))
                count += 1
            stop.wait(0.05)
        with peer_of(ports.weights, ports.keys, zmq.SUB) as peer:
            for _ in range(500):
                peer.unsubscribe(ACTING)
                peer.subscribe(ACTING)
                count += 1
            stop.wait(0.05)
    return count


# ------------------------------------------------------------------------------- zapex, not true


def status_flood(ports: Ports, stop: Stop) -> int:
    """How does the run go? How does it go? …"""
    with peer_of(ports.head, ports.keys) as peer:
        for count in itertools.count():
            if count % 50 == 0 and stop.wait(PAUSE_S):
                return count
            send(peer, frames_of(StatusRequest()))
    return 0


def join_flood(ports: Ports, stop: Stop) -> int:
    """Actors that join, from one connection and from many, and are never heard of again."""
    liar = Liar("join")
    honest = Join("actor", "stranger", 1, 1, -1, take_over=False, token=0)
    with contextlib.ExitStack() as ends:
        peers: list[zmq.Socket[bytes]] = []
        for count in itertools.count():
            if count % 20 == 0 and stop.wait(PAUSE_S * 5):
                return count
            if len(peers) < HELD_CONNECTIONS:
                peers.append(ends.enter_context(peer_of(ports.head, ports.keys)))
            join = replace(honest, token=count, num_envs=1 + count % 3)
            said = join if count % 2 else liar.changed(join)
            if isinstance(said, Join) and said.role in ("replay_server", "evaluator", "inference"):
                continue  # Whoever may join may spoil a run: SECURITY.md. This is about accidents.
            send(peers[count % len(peers)], frames_of(said))
    return 0


def lies(ports: Ports, stop: Stop) -> int:
    """Well-formed messages to every role: wrong shapes, dtypes, ranges, numbers out of order."""
    liar = Liar("lies")
    chance = liar.random
    sequences = [0, 1, 0, 5, 3, -1, 1 << 62]
    with contextlib.ExitStack() as ends:
        head, replay, inference = (
            ends.enter_context(peer_of(endpoint, ports.keys))
            for endpoint in (ports.head, ports.replay, ports.inference)
        )
        for count in itertools.count():
            if count % 10 == 0 and stop.wait(PAUSE_S):
                return count
            insert = replace(
                ports.insert,
                session=chance.getrandbits(62),
                sequence=chance.choice(sequences),
                oldest=0,
            )
            # Poisoned whatever else is changed: no experience of this attacker is ever stored.
            reward = np.full_like(insert.reward, np.nan)
            keys = np.array([chance.getrandbits(62)], np.int64)
            said: list[tuple[zmq.Socket[bytes], Message]] = [
                (replay, replace(insert, reward=reward)),
                (replay, liar.changed(replace(insert, reward=reward, priority=-insert.priority))),
                (replay, SampleRequest(0, keys, np.array([np.nan], np.float32))),
                (replay, Ack(chance.getrandbits(62), 1 << 40)),
                (head, Ack(0, 0)),
                (inference, liar.changed(InferenceRequest(count, insert.obs[0]))),
                (inference, InferenceRequest(count, np.full((1, 4), np.nan, np.float32))),
            ]
            peer, message = chance.choice(said)
            if isinstance(message, Insert) and not np.isnan(np.asarray(message.reward)).any():
                continue
            send(peer, frames_of(message))
    return 0


ATTACKS: tuple[Attack, ...] = (
    garbage, slow_loris, endless_greeting, connection_flood, broken_frames, allocation_bombs,
    topics, status_flood, join_flood, lies,
)  # fmt: skip
