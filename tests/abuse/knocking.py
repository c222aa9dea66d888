"""What those do who know CURVE and have no key that counts: they come as far as the handshake.

A handshake (RFC 26 of ZeroMQ, CurveZMQ) is a greeting, then HELLO and INITIATE of the client.
"""

import contextlib
import itertools
import random
import socket

import zmq

from common.keys import Keys
from common.messages import StatusRequest
from tests.abuse.attacks import (
    GREETING,
    HELD_CONNECTIONS,
    PAUSE_S,
    Attack,
    Ports,
    Stop,
    open_stream,
    peer_of,
    say,
    send,
)
from tests.fuzz.peers import frames_of

CURVE_GREETING = GREETING.replace(b"NULL\0", b"CURVE")
HELLO_BYTES = 200


def _command(name: bytes, body: bytes) -> bytes:
    """As ZMTP frames it, with a size of eight bytes."""
    content = bytes([len(name)]) + name + body
    return b"\x06" + len(content).to_bytes(8, "big") + content


def _hello(chance: random.Random) -> bytes:
    """Of the right form: version, padding, public key, nonce; a box that nobody can open."""
    return _command(b"HELLO", b"\x01\x00" + bytes(72) + chance.randbytes(32 + 8 + 80))


def _said(chance: random.Random) -> bytes:
    """Of a client that has no key: what may come after its greeting."""
    initiate = _command(b"INITIATE", chance.randbytes(chance.choice([0, 8, 249, 257, 5_000])))
    message = _command(b"MESSAGE", chance.randbytes(chance.choice([0, 24, 2_000])))
    return chance.choice([
        b"",
        _hello(chance),
        _hello(chance)[: chance.randrange(HELLO_BYTES)],
        _hello(chance) * 2,
        _hello(chance) + initiate,
        initiate,
        message * 10,
        _command(b"READY", b"\x0bSocket-Type\x00\x00\x00\x06DEALER"),
        _command(b"HELLO", chance.randbytes(chance.randrange(400))),
        b"\x06" + (1 << 40).to_bytes(8, "big") + b"\x05HELLO",
        b"\x00\x05plain" * 100,
        chance.randbytes(chance.randrange(1_000)),
    ])  # fmt: skip


def broken_handshakes(ports: Ports, stop: Stop) -> int:
    """Handshakes that break off, or go on as they must not; some connections are held."""
    chance = random.Random(2)
    held: list[socket.socket] = []
    with contextlib.ExitStack() as ends:
        for count in itertools.count():
            if stop.wait(PAUSE_S):
                return count
            connection = open_stream(ports.endpoints[count % 4])
            if connection is None:
                continue
            say(connection, CURVE_GREETING + _said(chance))
            if count % 4:
                connection.close()
                continue
            held.append(ends.enter_context(connection))
            if len(held) > HELD_CONNECTIONS:
                held.pop(0).close()
    return 0


def unknown_keys(ports: Ports, stop: Stop) -> int:
    """Handshakes that are right in all but the key: one that is not on the list, or made for
    another run. Each costs the run as much as an honest one."""
    for count in itertools.count():
        if stop.wait(PAUSE_S * 5):
            return count
        public, secret = zmq.curve_keypair()
        server = ports.server_key if count % 3 else zmq.curve_keypair()[0]
        keys = Keys("abuse", secret, public, server)
        kind = zmq.SUB if ports.endpoints[count % 4] == ports.weights else zmq.DEALER
        with peer_of(ports.endpoints[count % 4], keys, kind) as peer:
            if kind == zmq.SUB:
                peer.subscribe(b"")
            else:
                send(peer, frames_of(StatusRequest()))
            stop.wait(0.02)
    return 0


KNOCKING: tuple[Attack, ...] = (broken_handshakes, unknown_keys)
