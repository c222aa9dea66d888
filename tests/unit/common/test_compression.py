"""Compressed arrays: what comes out is what went in, and nothing else ever comes out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common import codec
from common.compression import (
    DELTA,
    METHODS,
    CompressedArray,
    copy_array,
    pieces,
    unpacked,
)
from common.errors import MalformedMessage
from common.messages import Insert, Weights
from common.packing import MIN_BYTES, compressed
from common.wire_method import wire_method
from tests.packed_frames import packed_frames

U1 = np.dtype(np.uint8)
each_method = pytest.mark.parametrize("method", METHODS)


def image(noise: int = 0) -> Any:
    """Two transitions of four frames [2, 4, 84, 84]; `noise`: how many of its bytes are random."""
    frames = np.zeros((2, 4, 84, 84), np.uint8)
    frames[..., 20:40, :] = np.arange(8).reshape(2, 4, 1, 1)
    rng = np.random.default_rng(0)
    frames.reshape(-1)[:noise] = rng.integers(0, 256, noise, np.uint8)
    return frames


def packed(method: str, parts: int = 1) -> CompressedArray:
    return packed_frames(image(), method, parts)


@each_method
@pytest.mark.parametrize("noise", [0, 10_000])
def test_an_image_comes_out_as_it_went_in(method: str, noise: int) -> None:
    array = compressed(image(noise), method)

    assert isinstance(array, CompressedArray)
    assert len(array.data) < array.nbytes == 8 * 84 * 84
    out = np.full((2, 4, 84, 84), 99, np.uint8)
    copy_array(array, out)
    np.testing.assert_array_equal(out, image(noise))
    np.testing.assert_array_equal(unpacked(array), image(noise))


@each_method
@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 7, MIN_BYTES // 8), np.uint8),
        np.zeros((MIN_BYTES // 4, 4), np.uint8),
        np.zeros((MIN_BYTES // 15, 2, 3, 5), np.uint8),
        np.zeros((2, 2, MIN_BYTES), np.float32),
        np.random.default_rng(0).integers(0, 256, (2, 2, MIN_BYTES), np.uint8),
    ],
    ids=["few", "numbers", "small frames", "floats", "noise"],
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
@pytest.mark.parametrize(("count", "parts"), [(1, 1), (2, 2), (3, 3), (5, 4), (7, 4), (8, 8)])
def test_parts_that_were_packed_one_by_one_make_the_array(
    method: str, count: int, parts: int
) -> None:
    frames = image().reshape(8, 1, 84, 84)

    array = packed_frames(frames, method, count)

    assert array.data[:4].view("<u4") == len(pieces(8, count)) == parts
    assert [i for cut in pieces(8, count) for i in range(8)[cut]] == list(range(8))
    np.testing.assert_array_equal(unpacked(array), frames)


@each_method
def test_an_array_is_unpacked_into_a_place_of_another_shape(method: str) -> None:
    place = np.zeros(8 * 84 * 84, np.uint8)
    packed(method, 2).copy_to(place)
    np.testing.assert_array_equal(place.reshape(image().shape), image())


@each_method
@pytest.mark.parametrize(
    "shape", [(56_448,), (56_447,), (2, 28_224), (2, 4, 14_112), (2, 0, 84), (4, 0), (9, 4, 84, 84)]
)
def test_an_array_of_another_shape_than_announced_is_refused(
    method: str, shape: tuple[int, ...]
) -> None:
    nbytes = int(np.prod(shape))
    with pytest.raises(MalformedMessage, match=r"differences|lz4|zstd|Decompression"):
        replace(packed(method), shape=shape, nbytes=nbytes).copy_to(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    "sizes",
    [
        [], [0], [9], [0xFFFFFFFF], [1], [1, 5], [1, 7], [2, 6], [2, 6, 1], [2, 3, 4],
        [5, *[1] * 5], [5, 2, 1, 1, 1, 1],  # 8 frames make 4 pieces of 2.
    ],
)  # fmt: skip
def test_parts_that_are_not_as_announced_are_refused(sizes: list[int]) -> None:
    data = np.frombuffer(np.array(sizes, "<u4").tobytes() + b"abcdef", np.uint8)
    array = CompressedArray(U1, (8, 84, 84), 8 * 84 * 84, "delta+lz4", data)

    with pytest.raises(MalformedMessage, match=r"cannot be in \d+ parts|\d parts .* do not make"):
        unpacked(array)


@pytest.mark.parametrize(
    ("endpoint", "methods"),
    [
        ("inproc://replay", ("none", "none", "none")),
        ("ipc:///tmp/replay", (DELTA, DELTA, DELTA)),
        ("tcp://127.0.0.1:5560", (DELTA, DELTA, DELTA)),
        ("tcp://localhost:5560", (DELTA, DELTA, DELTA)),
        ("tcp://[::1]:5560", (DELTA, DELTA, DELTA)),
        ("tcp://10.0.0.1:5560", METHODS),
        ("tcp://replay-0.zapex:5560", METHODS),
        ("tcp://0.0.0.0:5560", METHODS),
    ],
)
def test_differences_are_compressed_between_hosts_alone(
    endpoint: str, methods: tuple[str, ...]
) -> None:
    assert tuple(wire_method(endpoint, name) for name in ("none", "lz4", "zstd")) == methods


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
    assert received.obs.shape == (2, 4, 84, 84)
    np.testing.assert_array_equal(unpacked(received.obs), image())
    assert sum(map(len, frames)) < image().nbytes / (3 if method == DELTA else 10)


def test_only_arrays_whose_reader_expects_it_may_be_compressed() -> None:
    array: Any = packed("delta+lz4")
    frames = [bytes(frame) for frame in codec.encode(Weights(0, 0, {"a": array}))]

    with pytest.raises(MalformedMessage, match="compressed by"):
        codec.decode(frames)


def test_an_unknown_method_is_refused() -> None:
    frames = [bytes(f) for f in codec.encode(insert(replace(packed("delta+lz4"), method="brotli")))]

    with pytest.raises(MalformedMessage, match="compressed by 'brotli'"):
        codec.decode(frames)
