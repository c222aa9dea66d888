"""Streamed rows are the rows that numpy takes."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.streamed_copy import can_stream, stream_rows

GUARD = 0xA5


def aligned(shape: tuple[int, ...], dtype: str, shift: int = 0) -> npt.NDArray[Any]:
    """Zeros that begin `shift` bytes behind an address that is a multiple of 64."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.zeros(nbytes + 128, np.uint8)
    first = -buffer.ctypes.data % 64 + shift
    return buffer[first : first + nbytes].view(dtype).reshape(shape)


@given(
    seed=st.integers(0, 1 << 32),
    held=st.integers(1, 9),
    count=st.integers(0, 20),
    shape=st.sampled_from([(16,), (4, 4), (84, 84), (5, 16, 3)]),
    dtype=st.sampled_from(["|u1", "|b1", "<i2", "<f4", "<f8"]),
    at=st.sampled_from([0, 16, 32, 48]),
)
def test_the_rows_are_those_that_numpy_takes(
    seed: int, held: int, count: int, shape: tuple[int, ...], dtype: str, at: int
) -> None:
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 2, (held, *shape)).astype(dtype)
    source *= rng.integers(0, 2, (held, *[1] * len(shape))).astype(dtype)
    rows = rng.integers(0, held, count)
    out = aligned((count, *shape), dtype, at)
    assert can_stream(source, out)
    stream_rows(source, rows, out)
    np.testing.assert_array_equal(out, source[rows])


def test_nothing_beside_the_rows_is_written() -> None:
    source = np.arange(4 * 48, dtype=np.uint8).reshape(4, 48)
    around = aligned((5, 48), "|u1")
    around.fill(GUARD)
    stream_rows(source, np.array([3, 0, 2]), around[1:4])
    np.testing.assert_array_equal(around[1:4], source[[3, 0, 2]])
    assert (around[[0, 4]] == GUARD).all()


def test_a_row_that_is_not_there_is_the_first_or_the_last() -> None:
    source = np.arange(3 * 16, dtype=np.uint8).reshape(3, 16)
    rows = np.array([-1, -(1 << 62), 3, 1 << 62])
    out = aligned((4, 16), "|u1")
    stream_rows(source, rows, out)
    np.testing.assert_array_equal(out, source.take(rows, axis=0, mode="clip"))


@pytest.mark.parametrize(
    ("source", "out"),
    [
        (np.zeros((3, 24), np.uint8), aligned((2, 24), "|u1")),
        (np.zeros((3, 16), np.uint8), aligned((2, 16), "|u1", 8)),
        (np.zeros((3, 32), np.uint8)[:, :16], aligned((2, 16), "|u1")),
        (np.zeros((3, 16), np.uint8), aligned((2, 32), "|u1")[:, :16]),
        (np.zeros((0, 16), np.uint8), aligned((2, 16), "|u1")),
        (np.zeros((3, 0), np.uint8), aligned((2, 0), "|u1")),
    ],
    ids=["length", "address", "source apart", "target apart", "no source", "no bytes"],
)
def test_what_cannot_be_streamed(source: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    assert not can_stream(source, out)


@pytest.mark.parametrize("out", [aligned((3, 16), "|u1"), aligned((2, 32), "|u1")])
def test_a_target_of_another_shape_is_refused(out: npt.NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"rows \(2,\) of uint8 \(3, 16\) into uint8 \("):
        stream_rows(np.zeros((3, 16), np.uint8), np.array([0, 1]), out)
