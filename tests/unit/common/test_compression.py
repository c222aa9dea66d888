"""Compressed arrays: what comes out is what went in, and nothing else ever comes out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common import codec
from common.compression import (
    METHODS,
    MIN_BYTES,
    CompressedArray,
    compressed,
    copy_array,
    joined,
    pack,
    pieces,
    unpacked,
)
from common.errors import MalformedMessage
from common.messages import Insert, Weights

U1 = np.dtype(np.uint8)
each_method = pytest.mark.parametrize("method", METHODS)


def image(noise: int = 0) -> Any:
    """[8, 84, 84]; `noise`: how many of its bytes are random."""
    frames = np.zeros((8, 84, 84), np.uint8)
    frames[:, 20:40] = np.arange(8)[:, None, None]
    rng = np.random.default_rng(0)
    frames.reshape(-1)[:noise] = rng.integers(0, 256, noise, np.uint8)
    return frames


def packed(method: str) -> CompressedArray:
    array = compressed(image(), method)
    assert isinstance(array, CompressedArray)
    return array


@each_method
@pytest.mark.parametrize("noise", [0, 10_000])
def test_an_image_comes_out_as_it_went_in(method: str, noise: int) -> None:
    array = compressed(image(noise), method)

    assert isinstance(array, CompressedArray)
    assert len(array.data) < array.nbytes == 8 * 84 * 84
    out = np.full((8, 84, 84), 99, np.uint8)
    copy_array(array, out)
    np.testing.assert_array_equal(out, image(noise))
    np.testing.assert_array_equal(unpacked(array), image(noise))


@each_method
@pytest.mark.parametrize(
    "array",
    [
        np.zeros(MIN_BYTES - 1, np.uint8),
        np.zeros(MIN_BYTES, np.float32),
        np.random.default_rng(0).integers(0, 256, 2 * MIN_BYTES, np.uint8),
    ],
    ids=["small", "floats", "noise"],
)
def test_what_would_not_pay_is_left_alone(method: str, array: Any) -> None:
    assert compressed(array, method) is array


@each_method
def test_planes_of_truth_values_come_out_as_they_went_in(method: str) -> None:
    planes = image() > 3

    array = compressed(planes, method)

    assert isinstance(array, CompressedArray)
    assert array.dtype == np.bool_
    np.testing.assert_array_equal(unpacked(array), planes)
    received = codec.decode([bytes(frame) for frame in codec.encode(insert(array))])
    assert isinstance(received, Insert)
    np.testing.assert_array_equal(unpacked(received.obs), planes)


def test_nothing_is_compressed_where_nothing_is_to_be() -> None:
    array = image()
    assert compressed(array, "none") is array


@each_method
def test_a_truncated_or_altered_array_never_writes_beyond_its_place(method: str) -> None:
    good = packed(method)
    rng = np.random.default_rng(0)
    around = np.full(good.nbytes + 2_000, 99, np.uint8)
    place = around[1_000:-1_000]
    refused = 0
    for trial in range(300):
        data = good.data[: rng.integers(len(good.data))].copy() if trial % 2 else good.data.copy()
        if len(data):
            data[rng.integers(len(data), size=3)] = rng.integers(0, 256, 3, np.uint8)
        try:
            replace(good, data=data).copy_to(place)
        except MalformedMessage:
            refused += 1
        assert (around[:1_000] == 99).all()
        assert (around[-1_000:] == 99).all()
    assert refused >= 150  # All that are too short.


@each_method
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8])
def test_parts_that_were_packed_one_by_one_make_the_array(method: str, count: int) -> None:
    cuts = pieces(8, count)
    array = joined([pack(image()[cut], method) for cut in cuts], (8, 84, 84), U1, method)

    assert array is not None
    assert [i for cut in cuts for i in range(8)[cut]] == list(range(8))
    np.testing.assert_array_equal(unpacked(array), image())


@pytest.mark.parametrize(
    "sizes",
    [[], [0], [9], [0xFFFFFFFF], [1], [1, 5], [1, 7], [2, 6], [2, 6, 1], [2, 3, 4], [5, *[1] * 5]],
)
def test_parts_that_are_not_as_announced_are_refused(sizes: list[int]) -> None:
    data = np.frombuffer(np.array(sizes, "<u4").tobytes() + b"abcdef", np.uint8)
    array = CompressedArray(U1, (8, 84, 84), 8 * 84 * 84, "lz4", data)

    with pytest.raises(MalformedMessage, match=r"parts|lz4|announced"):
        unpacked(array)


@each_method
@pytest.mark.parametrize("size", [8 * 84 * 84 - 1, 8 * 84 * 84 + 1])
def test_an_array_of_another_size_than_announced_is_refused(method: str, size: int) -> None:
    with pytest.raises(MalformedMessage, match=method + "|announced"):
        replace(packed(method), shape=(size,), nbytes=size).copy_to(np.zeros(size, np.uint8))


# --------------------------------------------------------------------------------- on the wire


def insert(obs: Any) -> Insert:
    matrix = np.zeros((1, 8), np.int32)
    return Insert(
        1, 2, 3, obs, matrix, matrix.astype(np.float32), matrix.astype(np.uint8),
        matrix.astype(np.float32),
    )  # fmt: skip


@each_method
def test_a_compressed_array_travels_as_it_is(method: str) -> None:
    array = packed(method)
    frames = [bytes(frame) for frame in codec.encode(insert(array))]

    received = codec.decode(frames)

    assert isinstance(received, Insert)
    assert isinstance(received.obs, CompressedArray)
    assert received.obs.shape == (8, 84, 84)
    np.testing.assert_array_equal(unpacked(received.obs), image())
    assert sum(map(len, frames)) < image().nbytes / 10


def test_only_arrays_whose_reader_expects_it_may_be_compressed() -> None:
    array: Any = packed("lz4")
    frames = [bytes(frame) for frame in codec.encode(Weights(0, 0, {"a": array}))]

    with pytest.raises(MalformedMessage, match="compressed by"):
        codec.decode(frames)


def test_an_unknown_method_is_refused() -> None:
    frames = [bytes(f) for f in codec.encode(insert(replace(packed("lz4"), method="brotli")))]

    with pytest.raises(MalformedMessage, match="compressed by 'brotli'"):
        codec.decode(frames)
