"""Frames as differences: what comes out is what went in, against a slow coder of a few lines."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import MalformedMessage
from common.frame_deltas import GROUP_BYTES, decode, encode, most_bytes

GUARD = 0xA5
U1Array = npt.NDArray[np.uint8]


def oracle(frames: U1Array, rows: npt.NDArray[np.int64]) -> bytes:
    """The module's docstring, read literally."""
    size = frames.shape[1]
    starts = [min(16 * g, size - 16) for g in range(-(-size // 16))]
    masks, groups = [], []
    for i, u in np.ndindex(rows.shape):
        before = np.zeros(size, np.uint8)
        if u > 0:
            before = frames[rows[i, u - 1]]
        elif i > 0:
            before = frames[rows[i - 1, 0]]
        frame = frames[rows[i, u]]
        given = [(frame[s : s + 16] != before[s : s + 16]).any() for s in starts]
        masks.append(np.packbits(given, bitorder="little").tobytes())
        groups += [frame[s : s + 16].tobytes() for s in np.array(starts)[given]]
    return b"".join(masks + groups)


def encoded(frames: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> U1Array:
    out = np.full(most_bytes(rows.size, frames[0].nbytes) + 7, GUARD, np.uint8)
    size = encode(frames, rows, out)
    assert (out[size:] == GUARD).all()
    return out[:size]


@given(
    seed=st.integers(0, 1 << 32),
    held=st.integers(1, 9),
    count=st.integers(1, 6),
    in_each=st.integers(1, 5),
    size=st.sampled_from([16, 17, 31, 32, 100, 127, 128, 129, 400, 700, 2048, 7056]),
    changed=st.sampled_from([0.0, 0.002, 0.1, 1.0]),
)
def test_frames_come_out_as_they_went_in_and_as_documented(
    seed: int, held: int, count: int, in_each: int, size: int, changed: float
) -> None:
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(0, 256, (1, size), np.uint8), held, axis=0)
    noise = rng.random(frames.shape) < changed
    frames[noise] = rng.integers(0, 256, int(noise.sum()), np.uint8)
    rows = rng.integers(0, held, (count, in_each))

    data = encoded(frames, rows)

    assert data.tobytes() == oracle(frames, rows)
    out = np.full((count, in_each, size), GUARD, np.uint8)
    decode(data, out)
    np.testing.assert_array_equal(out, frames[rows])


@pytest.mark.parametrize("dtype", ["|u1", "|b1", "<f4"])
def test_frames_of_any_shape_and_dtype_are_read_where_they_lie(dtype: str) -> None:
    frames = np.arange(5 * 10 * 10 * 4).reshape(5, 10, 10, 4).astype(dtype)
    rows = np.array([[4, 0], [2, 2], [1, 3]])

    out = np.empty((3, 2, frames[0].nbytes), np.uint8)
    decode(encoded(frames, rows), out)

    np.testing.assert_array_equal(out.view(dtype).reshape(3, 2, 10, 10, 4), frames[rows])


def test_what_stays_as_it_is_takes_a_bit_for_every_16_bytes() -> None:
    frames = np.zeros((2, 7056), np.uint8)
    frames[0, 0] = 1  # A screen of Atari has 441 groups, whose bits take 56 bytes.
    assert len(encoded(frames, np.zeros((3, 4), np.int64))) == 12 * 56 + GROUP_BYTES
    frames[1] = frames[0]
    frames[1, 100:120] = 7  # In two groups.
    assert len(encoded(frames, np.array([[0, 0, 1, 1]]))) == 4 * 56 + 3 * GROUP_BYTES
    assert most_bytes(4, 7056) == 4 * (56 + 441 * GROUP_BYTES)


def test_a_row_that_is_not_there_is_the_first_or_the_last() -> None:
    frames = np.arange(3 * 16, dtype=np.uint8).reshape(3, 16)
    rows = np.array([[-1, -(1 << 62), 3, 1 << 62]])
    out = np.empty((1, 4, 16), np.uint8)
    decode(encoded(frames, rows), out)
    np.testing.assert_array_equal(out, frames.take(rows, axis=0, mode="clip"))


def test_too_little_room_or_too_small_frames_are_refused() -> None:
    frames, rows = np.zeros((2, 32), np.uint8), np.zeros((1, 2), np.int64)
    with pytest.raises(ValueError, match=r"\(2, 32\) at rows \(1, 2\) into 65 bytes"):
        encode(frames, rows, np.empty(most_bytes(2, 32) - 1, np.uint8))
    with pytest.raises(ValueError, match=r"\(2, 15\)"):
        encode(frames[:, :15].copy(), rows, np.empty(1000, np.uint8))
    with pytest.raises(MalformedMessage, match="no differences"):
        decode(np.zeros(100, np.uint8), np.zeros((1, 2, 15), np.uint8))


@given(seed=st.integers(0, 1 << 32), size=st.sampled_from([16, 40, 700, 7056]))
def test_nothing_beside_its_place_is_read_or_written_whatever_a_stranger_sends(
    seed: int, size: int
) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 2, (4, size), np.uint8)
    data = encoded(frames, rng.integers(0, 4, (2, 3))).copy()
    data[rng.integers(len(data), size=3)] = rng.integers(0, 256, 3, np.uint8)
    data = data[: rng.integers(len(data) + 1)] if seed % 2 else np.append(data, np.uint8(0))
    around = np.full(2 * 3 * size + 200, GUARD, np.uint8)
    place = around[100:-100].reshape(2, 3, size)
    try:
        decode(data, place)
    except MalformedMessage:
        pass
    else:
        assert len(data) <= most_bytes(6, size)
    assert (around[:100] == GUARD).all()
    assert (around[-100:] == GUARD).all()


@pytest.mark.parametrize("change", [-16, -1, 1, 16])
def test_bytes_too_few_or_too_many_are_refused(change: int) -> None:
    frames = np.arange(4 * 64, dtype=np.uint8).reshape(4, 64)
    data = encoded(frames, np.array([[0, 1], [2, 3]]))
    other = data[:change] if change < 0 else np.append(data, np.zeros(change, np.uint8))

    with pytest.raises(MalformedMessage, match="no differences of frames"):
        decode(other, np.empty((2, 2, 64), np.uint8))


def test_the_frame_before_the_first_is_zeros_whatever_was_freed_before() -> None:
    # Glibc fills what is freed: a compiled function that frees zeros before it reads them would
    # read these, or end the process where they were large enough to be unmapped.
    code = """
import numpy as np
from common.frame_deltas import decode, encode, most_bytes
for size in (100, 7_056, 1_000_000):
    rows = np.zeros((1, 2), np.int64)
    for value in (0, 165, 90):
        frames = np.full((1, size), value, np.uint8)
        data = np.zeros(most_bytes(2, size), np.uint8)
        data = data[: encode(frames, rows, data)]
        out = np.ones((1, 2, size), np.uint8)
        decode(data, out)
        assert (out == value).all(), (size, value)
"""
    environment = {**os.environ, "MALLOC_PERTURB_": "165"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


def test_arrays_that_do_not_lie_in_one_piece_are_refused() -> None:
    frames = np.arange(4 * 64, dtype=np.uint8).reshape(4, 64)
    data = encoded(frames, np.array([[0, 1]]))
    with pytest.raises(TypeError):
        decode(data, np.empty((1, 2, 128), np.uint8)[:, :, ::2])
