"""Inputs that are nearly messages: valid frames of every kind, damaged where a decoder decides.

Bytes alone seldom get past msgpack, so most mutations know the structure: a header is taken apart,
one place of it gets a value that a check could forget, and it is packed again. What made the
decoder answer in a new way becomes a seed for more (`Mutator.keep`).
"""

import math
import random
import struct
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from common import codec
from common.compression import METHODS
from common.messages import SCHEMA_VERSION, Insert
from tests.contract.examples import EXAMPLES
from tests.packed_frames import packed_frames

Frames = list[bytes]

MAX_SEEDS = 400
"""Kept of those that were found on the way; beyond it a random one makes room."""
MAX_FRAME_BYTES = 1 << 17

INTERESTING: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 8, 255, 256, 4096, 65_535, 65_536,
    (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 32) - 1, 1 << 32, (1 << 48) - 1, 1 << 48,
    (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63),
    0.0, -0.0, 1.5, 1e308, 5e-324, math.nan, math.inf, -math.inf,
    "", "x", "\x00", "ε", "\n\x1b[31m", "a" * 70_000, "tcp://[::1", "inproc://", "../../etc/passwd",
    b"", b"\x00", b"\x90", b"\xc1", b"\xff" * 9, b"\x00" * 5_000,
    [], [[]], [None], [0], [1 << 62], [1 << 47, 1 << 47], [0, 1 << 50], [-1], [2.0], ["a"],
    [[1]] * 9, [1] * 9, [1] * 40, [0] * 20_000, ["<f4", [2]], ["|O", [1]], ["<f4", [1], "delta"],
    {}, {"a": {}}, {"": math.nan}, {"a": "b"}, {str(i): i for i in range(300)},
    msgpack.ExtType(1, b"abc"), msgpack.Timestamp(0, 0),
    *codec.DTYPES, ">f4", "|O", "|S1", "<M8", "f4", *METHODS,
]  # fmt: skip
"""Values at the edges of what checks ask for."""


def _nested(depth: int, value: Any = 0) -> Any:
    for _ in range(depth):
        value = [value]
    return value


_MANY_NAMES = [str(i) for i in range(codec.MAX_TENSORS + 1)]
CROWD = [
    msgpack.packb([SCHEMA_VERSION, "weights", {"epoch": 0, "version": 1, "tensors": names}, b""])
    for names in (_MANY_NAMES, _MANY_NAMES[1:])
]
"""Headers with more tensors than allowed, and with just as many."""
LARGE: list[Any] = [
    "a" * (codec.MAX_HEADER_BYTES + 1),
    _MANY_NAMES,
    [["|u1", [0]]] * (codec.MAX_TENSORS + 1),
]
"""Beyond what a header, or a message, may hold."""
NESTED = [_nested(depth) for depth in (10, 500, 510)]
TOO_DEEP = [mark * 3_000 + b"\x00" for mark in (b"\x91", b"\x81\xa1a")]
HUGE_COUNTS = [
    bytes([mark]) + struct.pack(">I", count)
    for mark in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF)
    for count in (0xFFFFFFFF, 0x7FFFFFFF, 1 << 20)
]
"""Strings, bytes, extensions, lists and maps that announce more than there is."""


def seeds() -> list[Frames]:
    """One message of every kind, and those whose arrays travel in other ways."""
    rows = np.zeros((2, 19, 84, 84), np.uint8)
    rows[:, ::2] = 7
    columns = {
        "action": np.zeros((2, 19), np.int32),
        "reward": np.zeros((2, 19), np.float32),
        "row_kind": np.zeros((2, 19), np.uint8),
        "priority": np.ones((2, 16), np.float32),
    }
    inserts = [
        Insert(1, 0, 3, obs, **columns)
        for obs in (rows[:, :, :60, :60], *(packed_frames(rows, m) for m in METHODS))
    ]
    return [[bytes(frame) for frame in codec.encode(m)] for m in (*EXAMPLES, *inserts)]


class Mutator:
    """An endless supply of inputs, the same for the same seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._seeds = seeds()
        self._found: list[Frames] = []
        self._ways: list[Callable[[Frames], Frames]] = [
            *[self._header_place] * 6, *[self._descriptor] * 6,
            self._flip, self._overwrite, self._truncate, self._insert, self._repeat, self._splice,
            self._frames, self._bomb, self._count, self._resize,
        ]  # fmt: skip

    def keep(self, frames: Frames) -> None:
        """This one led somewhere new."""
        if len(self._found) < MAX_SEEDS:
            self._found.append(frames)
        else:
            self._found[self._random.randrange(MAX_SEEDS)] = frames

    def next(self) -> Frames:
        if self._random.random() < 0.0005:
            return [self._random.choice(CROWD)]
        frames = self._any()
        for _ in range(self._random.choice((1, 1, 1, 2, 2, 3))):
            frames = self._random.choice(self._ways)(frames)
        return frames

    def _any(self) -> Frames:
        pick = self._random.random()
        if self._found and pick < 0.3:
            return self._random.choice(self._found)
        return self._random.choice(self._seeds)

    def value(self) -> Any:
        """Something that does not belong there."""
        pick = self._random.random()
        if pick < 0.001:
            return self._random.choice(LARGE)
        if pick < 0.9:
            return self._random.choice(INTERESTING)
        if pick < 0.95:
            return self._random.choice(NESTED)
        return self._random.getrandbits(self._random.choice((7, 8, 16, 31, 32, 63)))

    # --------------------------------------------------------------------------- by the structure

    def _header_place(self, frames: Frames) -> Frames:
        header = _unpacked(frames)
        if not isinstance(header, list):
            return self._flip(frames)
        _change(header, self._random, self.value)
        return [_packed(header), *frames[1:]]

    def _descriptor(self, frames: Frames) -> Frames:
        header = _unpacked(frames)
        if not (isinstance(header, list) and len(header) == 4 and isinstance(header[3], bytes)):
            return self._header_place(frames)
        try:
            described = msgpack.unpackb(header[3]) if header[3] else []
        except Exception:
            return self._header_place(frames)
        if isinstance(described, list):
            _change(described, self._random, self.value)
        header[3] = _packed(described)
        return [_packed(header), *frames[1:]]

    # ------------------------------------------------------------------------------- by the bytes

    def _one(self, frames: Frames) -> tuple[int, bytearray]:
        place = self._random.randrange(len(frames)) if frames else 0
        return place, bytearray(frames[place] if frames else b"")

    def _flip(self, frames: Frames) -> Frames:
        place, data = self._one(frames)
        if data:
            # Mostly near the beginning, where lengths and types are.
            end = len(data) if self._random.random() < 0.3 else min(len(data), 64)
            data[self._random.randrange(end)] ^= 1 << self._random.randrange(8)
        return _with(frames, place, data)

    def _overwrite(self, frames: Frames) -> Frames:
        place, data = self._one(frames)
        if data:
            at = self._random.randrange(len(data))
            new = self._random.randbytes(self._random.choice((1, 2, 4, 8)))
            data[at : at + len(new)] = new
        return _with(frames, place, data)

    def _truncate(self, frames: Frames) -> Frames:
        place, data = self._one(frames)
        return _with(frames, place, data[: self._random.randrange(len(data) + 1)])

    def _insert(self, frames: Frames) -> Frames:
        place, data = self._one(frames)
        at = self._random.randrange(len(data) + 1)
        data[at:at] = self._random.randbytes(self._random.choice((1, 2, 4, 8, 64)))
        return _with(frames, place, data)

    def _repeat(self, frames: Frames) -> Frames:
        place, data = self._one(frames)
        a, b = sorted(self._random.randrange(len(data) + 1) for _ in range(2))
        data[a:a] = data[a:b]
        return _with(frames, place, data[:MAX_FRAME_BYTES])

    def _splice(self, frames: Frames) -> Frames:
        """The beginning of this, the end of another."""
        other = self._any()
        if self._random.random() < 0.5:
            cut = self._random.randrange(len(frames) + 1)
            return frames[:cut] + other[self._random.randrange(len(other) + 1) :]
        place, data = self._one(frames)
        _, rest = self._one(other)
        joined = data[: self._random.randrange(len(data) + 1)]
        joined += rest[self._random.randrange(len(rest) + 1) :]
        return _with(frames, place, joined[:MAX_FRAME_BYTES])

    def _frames(self, frames: Frames) -> Frames:
        changed = list(frames)
        match self._random.randrange(5):
            case 0:
                changed.append(self._random.choice((b"", b"\x00" * 8, *frames[:1])))
            case 1 if changed:
                del changed[self._random.randrange(len(changed))]
            case 2:
                self._random.shuffle(changed)
            case 3 if changed:
                changed.insert(0, self._random.choice(changed))
            case _:
                changed = changed[:1]
        return changed

    def _bomb(self, frames: Frames) -> Frames:
        """Deep msgpack, or counts beyond what there is, instead of a header or a part of it."""
        bomb = self._random.choice((*TOO_DEEP, *HUGE_COUNTS))
        if self._random.random() < 0.5:
            bomb = b"\x94" + msgpack.packb(SCHEMA_VERSION) + bomb
        return [bomb, *frames[1:]]

    def _count(self, frames: Frames) -> Frames:
        """What a compressed array says of its parts, or a number anywhere."""
        place, data = self._one(frames)
        if len(data) >= 4:
            at = 4 * self._random.randrange(min(len(data) // 4, 4))
            number = self._random.choice((0, 1, 2, 3, 7, 255, 1 << 16, 1 << 31, (1 << 32) - 1))
            struct.pack_into("<I", data, at, number)
        return _with(frames, place, data)

    def _resize(self, frames: Frames) -> Frames:
        """As many bytes as some array could want."""
        if len(frames) < 2:
            return frames
        place = self._random.randrange(1, len(frames))
        size = self._random.choice((0, 1, 7, 8, 16, 24, 4_096, 65_536, 65_544))
        return _with(frames, place, bytearray(frames[place][:size].ljust(size, b"\x01")))


def _with(frames: Frames, place: int, data: bytearray) -> Frames:
    return [*frames[:place], bytes(data), *frames[place + 1 :]]


def _unpacked(frames: Frames) -> Any:
    try:
        return msgpack.unpackb(frames[0]) if frames else None
    except Exception:
        return None


def _packed(value: Any) -> bytes:
    try:
        packed: bytes = msgpack.packb(value)
    except (ValueError, OverflowError):  # Beyond msgpack's own limits.
        return b"\xc1"
    return packed


def _change(tree: Any, chance: random.Random, value: Callable[[], Any]) -> None:
    """Walk down to a random place and put another value there, take it out, or double it."""
    while True:
        if isinstance(tree, dict):
            places: list[Any] = list(tree)
        elif isinstance(tree, list):
            places = list(range(len(tree)))
        else:
            return
        if not places:
            if isinstance(tree, list):
                tree.append(value())
            return
        place = chance.choice(places)
        inner = tree[place]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.8:
            tree = inner
            continue
        match chance.randrange(10):
            case 0:
                del tree[place]
            case 1 if isinstance(tree, list):
                tree.insert(place, inner)
            case 1:
                tree[chance.choice(("", "x", "kind", "session"))] = inner
            case 2 if type(inner) is int:
                tree[place] = inner + chance.choice((-1, 1, 1 << 20))
            case _:
                tree[place] = value()
        return
