"""Whatever a message holds arrives as it was sent, without being copied on the way."""

import dataclasses
import typing
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common import codec
from common.messages import ArraySpec, Insert, Message, NamedTensors, Weights
from tests.contract.equality import assert_same
from tests.contract.examples import EXAMPLES

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(1 << 63), (1 << 63) - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: st.text(),
    dict[str, float]: st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=4),
    dict[str, Any]: st.dictionaries(st.text(), plain_values, max_size=3),
}


def arrays(spec: ArraySpec) -> st.SearchStrategy[npt.NDArray[Any]]:
    """Of any bits, NaN among them, often empty."""
    dtype = st.sampled_from(sorted(codec.DTYPES)) if spec.dtype is None else st.just(spec.dtype)
    low, high = (0, 5) if spec.ndim is None else (spec.ndim, spec.ndim)
    shape = hnp.array_shapes(min_dims=low, max_dims=high, min_side=0, max_side=3)
    return dtype.flatmap(lambda name: hnp.arrays(np.dtype(name), shape))


def any_message(cls: type[Message]) -> st.SearchStrategy[Message]:
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        specs = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, ArraySpec)]
        if specs:
            fields[name] = arrays(specs[0])
        elif hint == NamedTensors:
            fields[name] = st.dictionaries(st.text(), arrays(ArraySpec(None, None)), max_size=3)
        elif hint in SCALARS:
            fields[name] = SCALARS[hint]
    return st.builds(cls, **fields)


@pytest.mark.parametrize(
    "cls", [type(example) for example in EXAMPLES], ids=lambda cls: str(cls.kind)
)
@settings(max_examples=40)
@given(st.data())
def test_every_message_arrives_as_it_was_sent(cls: type[Message], data: st.DataObject) -> None:
    sent = data.draw(any_message(cls))
    frames = [bytes(frame) for frame in codec.encode(sent)]

    assert_same(codec.decode(frames), sent)


def weights(**tensors: npt.NDArray[Any]) -> Weights:
    return Weights(0, 0, tensors)


@pytest.mark.parametrize("name", sorted(codec.DTYPES))
def test_every_dtype_of_the_wire_travels(name: str) -> None:
    tensor = np.array([[0, 1], [1, 0]]).astype(name)
    frames = codec.encode(weights(a=tensor))

    assert_same(codec.decode(frames), weights(a=tensor))


def test_arrays_that_are_not_contiguous_arrive_in_row_order() -> None:
    grid = np.arange(12, dtype=np.int32).reshape(3, 4)
    for view in (grid.T, grid[::-1], grid[:, ::2], np.broadcast_to(grid[:1], (3, 4)), grid[1, 1:]):
        frames = codec.encode(weights(a=view))

        assert_same(codec.decode(frames), weights(a=view.copy()))


def test_frames_at_odd_addresses_are_read_like_others() -> None:
    tensor = np.linspace(-1, 1, 7)
    large = np.linspace(-1, 1, codec.PACKED_BYTES)
    header, *frames = codec.encode(weights(a=tensor, b=large))
    shifted = [memoryview(b"\x00" + bytes(frame))[1:] for frame in frames]

    assert_same(codec.decode([header, *shifted]), weights(a=tensor, b=large))


def test_neither_direction_copies_a_large_array() -> None:
    tensor = np.arange(codec.PACKED_BYTES // 4 + 1, dtype=np.float32)
    header, frame = codec.encode(weights(a=tensor))
    received = codec.decode([header, frame])

    assert isinstance(received, Weights)
    assert np.shares_memory(np.frombuffer(frame, np.uint8), tensor)
    assert np.shares_memory(received.tensors["a"], tensor)


def test_an_array_received_as_bytes_cannot_be_written_to() -> None:
    header, frame = codec.encode(weights(a=np.zeros(3, np.float32)))
    received = codec.decode([header, bytes(frame)])

    assert isinstance(received, Weights)
    with pytest.raises(ValueError, match="read-only"):
        received.tensors["a"][0] = 99.0


@pytest.mark.parametrize(
    "tensor",
    [
        np.zeros(2, ">f4"),
        np.zeros(2, np.complex64),
        np.zeros(2, np.longdouble),
        np.array([None, {}], object),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, [("a", "<f4"), ("b", "<f4")]),
    ],
    ids=lambda tensor: str(tensor.dtype),
)
def test_dtypes_that_do_not_travel_are_refused_by_the_sender(tensor: npt.NDArray[Any]) -> None:
    with pytest.raises(TypeError, match="does not travel"):
        codec.encode(weights(a=tensor))


@pytest.mark.parametrize(
    ("field", "dtype"), [("action", np.int64), ("reward", np.float64), ("row_kind", np.int32)]
)
def test_arrays_of_another_dtype_than_declared_are_refused_by_the_sender(
    field: str, dtype: type
) -> None:
    (good,) = (example for example in EXAMPLES if isinstance(example, Insert))
    bad = dataclasses.replace(good, **{field: getattr(good, field).astype(dtype)})

    with pytest.raises(TypeError, match=f"insert.{field} is .* declared"):
        codec.encode(bad)
