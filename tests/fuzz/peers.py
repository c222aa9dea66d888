"""Messages that a decoder accepts and nobody should believe: well formed, with wrong contents.

They are made from good ones of a small run, field by field, and packed by a writer of frames that
checks nothing (`codec.encode` would refuse some). So they reach the code behind the decoder: table,
head, inference process, and the members that a malicious head speaks to.
"""

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from common import codec
from common.compression import METHODS, CompressedArray
from common.messages import SCHEMA_VERSION, Message
from common.packing import compressed
from tests.fuzz.mutations import INTERESTING, Frames

NUMBERS = [v for v in INTERESTING if type(v) is int and -(1 << 63) <= v < 1 << 63]
FLOATS = [v for v in INTERESTING if type(v) is float]
TEXTS = [
    "", "actor", "evaluator", "inference", "replay_server", "stop", "run", "rejoin",
    "tcp://[::1", "tcp://0.0.0.0:1", "tcp://x:99999999", "inproc://a", "ipc://", "/dev/zero",
    "x" * 300, "x" * 70_000, "a\nb\x1b[2J\x00", "𝔲", "%s%n", "../..",
]  # fmt: skip
CELLS = [
    0,
    1,
    -1,
    7,
    8,
    255,
    3e38,
    -3e38,
    1e-45,
    math.nan,
    math.inf,
    -math.inf,
    1 << 31,
    -(1 << 62),
]


def frames_of(message: Message) -> Frames:
    """As `codec.encode`, whatever its arrays are."""
    values = {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}  # type: ignore[arg-type]
    fields: dict[str, Any] = {}
    arrays: list[npt.NDArray[Any] | CompressedArray] = []
    for name, value in values.items():
        if isinstance(value, np.ndarray | CompressedArray):
            arrays.append(value)
        elif isinstance(value, dict) and name in ("tensors", "histograms"):
            fields[name] = list(value)
        else:
            fields[name] = value
    arrays += [a for n in ("tensors", "histograms") for a in values.get(n, {}).values()]
    shared, own, descriptors = b"", [], []
    for array in arrays:
        if isinstance(array, CompressedArray):
            descriptors.append([array.dtype.str, list(array.shape), array.method])
            own.append(array.data.tobytes())
            continue
        descriptors.append([array.dtype.str, list(array.shape)])
        if array.nbytes <= codec.PACKED_BYTES:
            shared += array.tobytes().ljust(-(-array.nbytes // 8) * 8, b"\0")
        else:
            own.append(array.tobytes())
    packed = msgpack.packb(descriptors) if descriptors else b""
    header = msgpack.packb([SCHEMA_VERSION, message.kind, fields, packed])
    return [header, *([shared] if shared else []), *own]


class Liar:
    """Changes messages; the same for the same seed."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def changed(self, message: Message) -> Message:
        """One to three of its fields have other contents now. Now and then none has."""
        names = [f.name for f in dataclasses.fields(message)]  # type: ignore[arg-type]
        for name in self.random.sample(names, min(self.random.choice((0, 1, 1, 2, 3)), len(names))):
            value = self._other(getattr(message, name))
            message = dataclasses.replace(message, **{name: value})  # type: ignore[type-var]
        return message

    def _other(self, value: Any) -> Any:
        chance = self.random
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return chance.choice(
                (value + 1, value - 1, chance.choice(NUMBERS), chance.randrange(9))
            )
        if isinstance(value, float):
            return chance.choice(FLOATS)
        if isinstance(value, str):
            return chance.choice(TEXTS)
        if isinstance(value, list):
            return [chance.choice(TEXTS) for _ in range(chance.randrange(3))]
        if isinstance(value, dict):
            return self._other_dict(value)
        if isinstance(value, np.ndarray):
            return self._other_array(value)
        return value

    def _other_dict(self, value: dict[str, Any]) -> dict[str, Any]:
        chance = self.random
        if not value:
            return {}
        changed = dict(value)
        name = chance.choice(list(changed))
        inner = changed[name]
        match chance.randrange(4):
            case 0:
                del changed[name]
            case 1:
                changed[chance.choice(TEXTS)] = inner
            case _ if isinstance(inner, dict | np.ndarray | float):
                changed[name] = self._other(inner)
            case _:
                changed[name] = chance.choice(INTERESTING)
        return changed

    def _other_array(self, array: npt.NDArray[Any]) -> Any:
        chance, method = self.random, METHODS[-1]
        ways: list[Callable[[], Any]] = [
            lambda: array[:-1],
            lambda: array[:0],
            lambda: np.repeat(array, 2, 0) if array.ndim else array,
            lambda: array[..., None] if array.ndim < 7 else array,
            lambda: array.reshape(-1),
            lambda: array.astype(chance.choice(list(codec.DTYPES))),
            lambda: _poisoned(array, chance),
            lambda: _poisoned(array, chance),
            lambda: _poisoned(array, chance),
            lambda: compressed(np.tile(array.astype(np.uint8).reshape(-1), (64, 32, 1)), method),
        ]
        if array.ndim == 0:
            ways = ways[4:8]
        with np.errstate(all="ignore"):
            return chance.choice(ways)()


def _poisoned(array: npt.NDArray[Any], chance: random.Random) -> npt.NDArray[Any]:
    """One cell, or all, of another value."""
    changed = array.copy()
    value = np.array(chance.choice(CELLS), np.float64).astype(array.dtype)
    if chance.random() < 0.2:
        changed[...] = value
    elif changed.size:
        changed.reshape(-1)[chance.randrange(changed.size)] = value
    return changed
