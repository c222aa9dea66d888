"""Bytes from strangers: arrays whose dtype, shape or size is not as declared are refused."""

import math
import tracemalloc
import typing
from typing import Any

import msgpack
import pytest

from common import codec
from common.messages import SCHEMA_VERSION, ArraySpec, Message
from tests.contract.damage import assert_malformed, header_of, with_value
from tests.contract.examples import EXAMPLES


def array_specs(example: Message) -> list[ArraySpec]:
    """What is declared of each array frame."""
    hints = typing.get_type_hints(type(example), include_extras=True)
    declared = [getattr(hint, "__metadata__", [None])[0] for hint in hints.values()]
    specs = [spec for spec in declared if isinstance(spec, ArraySpec)]
    return specs + [ArraySpec(None, None)] * len(getattr(example, "tensors", {}))


with_arrays = pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if array_specs(e)], ids=lambda example: example.kind
)
FOREIGN_DTYPES = [
    *(">f4", ">i4", ">i8", ">u2", ">f8", ">f2"),  # big-endian
    *("|O", "O", "|O8", "object", "|V8", "|S4", "<U4", "<M8[s]", "<m8[s]", "<c8", "<c16", "<f16"),
    *("float32", "f4", "=f4", "|f4", "<u1", "<f4,<f4", "(2,)<f4", "", "\x00"),
    *(None, 0, True, b"<f4", ["<f4"], {"names": ["a"], "formats": ["<f4"]}),
]


@with_arrays
def test_an_array_of_another_dtype_is_refused(example: Message) -> None:
    for i, spec in enumerate(array_specs(example)):
        # Those of the wire are foreign too where another one is declared.
        others = [name for name in codec.DTYPES if spec.dtype not in (None, name)]
        for dtype in [*FOREIGN_DTYPES, *others]:
            assert_malformed(with_value(example, [3, i, 0], dtype))


@with_arrays
def test_an_array_with_more_or_fewer_axes_than_declared_is_refused(example: Message) -> None:
    # Named tensors come behind those that are declared.
    announced = zip(array_specs(example), header_of(example)[3], strict=False)
    for i, (spec, (_, shape)) in enumerate(announced):
        for axes in range(1, 12):
            # As many bytes in every case; more than 8 axes are too many for any array.
            other = [1] * (axes - 1) + [math.prod(shape)]
            if axes > 8 or spec.ndim not in (None, axes):
                assert_malformed(with_value(example, [3, i, 1], other))


@with_arrays
@pytest.mark.parametrize(
    "size",
    [-1, True, 1.0, "1", None, [1], 1 << 31, 1 << 47, 1 << 62, (1 << 64) - 1],
    ids=repr,
)
def test_an_impossible_size_is_refused(example: Message, size: object) -> None:
    for i, (_, shape) in enumerate(header_of(example)[3]):
        for axis in range(len(shape)):
            if 0 not in shape:  # No rows of any width fill no bytes.
                assert_malformed(with_value(example, [3, i, 1, axis], size))


@pytest.mark.parametrize(
    "shape",
    [
        [1 << 40],
        [1 << 47, 1 << 47, 1 << 47],
        [1 << 16] * 4,  # 2⁶⁴ elements: 0 in 64 bits
        [(1 << 62) + 1],  # 4 bytes each: 4 in 64 bits
        [-1],
        [-1, -1],
        [-2, -2, 1, 1],
        [0, 1 << 47, 1 << 47],
        [1 << 47, 1 << 47, 0],
        [1] * 100_000,
        None,
        4,
        {"0": 1},
    ],
    ids=lambda shape: repr(shape)[:40],
)
@pytest.mark.parametrize("frame", [b"", b"\x00" * 4, b"\x00" * 16], ids=len)
def test_a_huge_or_impossible_shape_is_refused_before_anything_is_allocated(
    shape: Any, frame: bytes
) -> None:
    header = [SCHEMA_VERSION, "weights", {"epoch": 0, "version": 0, "tensors": ["a"]}]
    packed = msgpack.packb([*header, msgpack.packb([["<f4", shape]])])

    tracemalloc.start()
    try:
        assert_malformed([packed, frame])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4_000_000


@with_arrays
@pytest.mark.parametrize(
    "descriptor", [None, "<f4", [], ["<f4"], ["<f4", [1], 0], {"<f4": [1]}, 0], ids=repr
)
def test_an_array_that_is_not_announced_by_dtype_and_shape_is_refused(
    example: Message, descriptor: Any
) -> None:
    for i in range(len(array_specs(example))):
        assert_malformed(with_value(example, [3, i], descriptor))


def test_what_is_remembered_of_descriptors_is_small_whatever_came() -> None:
    """Or a thousand headers of a megabyte, each of other shapes, would be kept for ever."""
    fields = {"epoch": 0, "version": 0, "tensors": [str(i) for i in range(5_000)]}

    def many(first: int) -> list[bytes]:
        descriptors = msgpack.packb([["|u1", [0, first]], *[["|u1", [0]]] * 4_999])
        assert len(descriptors) > codec.MAX_REMEMBERED_BYTES
        return [msgpack.packb([SCHEMA_VERSION, "weights", fields, descriptors])]

    codec.decode(many(0))
    before = len(codec._PLANS)
    for first in range(1, 20):
        assert len(codec.decode(many(first)).tensors) == 5_000  # type: ignore[attr-defined]
    assert len(codec._PLANS) == before


def test_more_tensors_than_any_network_has_are_refused() -> None:
    names = [str(i) for i in range(codec.MAX_TENSORS + 1)]
    fields = {"epoch": 0, "version": 0, "tensors": names}
    assert_malformed([msgpack.packb([SCHEMA_VERSION, "weights", fields, b""])])
