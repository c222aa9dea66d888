"""Bytes from strangers: whatever chance makes of them, nothing but a WireError is raised."""

from typing import Any

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from common import codec
from common.errors import WireError
from common.messages import SCHEMA_VERSION, Message
from tests.contract.damage import frames_of
from tests.contract.examples import EXAMPLES


def decode_or_refuse(frames: list[bytes]) -> None:
    try:
        message = codec.decode(frames)
    except WireError:
        return
    assert isinstance(message, Message)


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=64), max_size=4))
def test_random_bytes_raise_nothing_but_a_wire_error(frames: list[bytes]) -> None:
    decode_or_refuse(frames)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text()
    | st.binary() | st.sampled_from(sorted(codec.DTYPES)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=200)
@given(
    st.sampled_from([example.kind for example in EXAMPLES]),
    st.lists(anything, min_size=2, max_size=2),
    st.lists(st.binary(max_size=16), max_size=3),
)
def test_random_fields_and_arrays_raise_nothing_but_a_wire_error(
    kind: str, rest: list[Any], frames: list[bytes]
) -> None:
    decode_or_refuse([msgpack.packb([SCHEMA_VERSION, kind, *rest]), *frames])


@settings(max_examples=300)
@given(st.sampled_from(EXAMPLES), st.data())
def test_a_damaged_message_raises_nothing_but_a_wire_error(
    example: Message, data: st.DataObject
) -> None:
    frames = frames_of(example)
    damaged = bytearray(frames[0])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse([bytes(damaged), *frames[1:]])
