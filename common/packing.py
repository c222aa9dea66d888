"""How images are compressed for the wire; `common/compression.py` has how they come out again."""

import math
from collections.abc import Sequence
from typing import Any

import cramjam
import numpy as np
import numpy.typing as npt

from common.compression import COMPRESSIBLE, DELTA, METHODS, PART_SIZE, Array, CompressedArray
from common.frame_deltas import GROUP_BYTES, encode, most_bytes

MIN_BYTES = 32 << 10
"""Smaller arrays are left alone."""
_ZSTD_LEVEL = 1
_MARGIN_BYTES = 4096
"""By which the result may at worst be longer, beside a 255th: both methods' bounds are less."""


def pays(frames: int, frame_bytes: int, dtype: np.dtype[Any]) -> bool:
    """Whether compressing so many frames is worth trying."""
    return (
        dtype.str in COMPRESSIBLE
        and frame_bytes >= GROUP_BYTES
        and frames * frame_bytes >= MIN_BYTES
    )


def compressed(array: npt.NDArray[Any], method: str) -> Array:
    """Frames [N, U, ...] compressed by one of `METHODS`, or as they are: with any other method, and
    where they are few or small, made of neither bytes nor truth values, or do not get smaller."""
    n, u = array.shape[:2]
    frame_bytes = math.prod(array.shape[2:]) * array.itemsize
    if method not in METHODS or not pays(n * u, frame_bytes, array.dtype):
        return array
    frames = np.ascontiguousarray(array).reshape(n * u, *array.shape[2:])
    buffer = np.empty(most_bytes(n * u, frame_bytes), np.uint8)
    part = pack(frames, np.arange(n * u).reshape(n, u), method, buffer)
    packed = joined([part], array.shape, array.dtype, method)
    return array if packed is None else packed


def pack(
    frames: npt.NDArray[Any],
    rows: npt.NDArray[np.int64],
    method: str,
    buffer: npt.NDArray[np.uint8],
) -> bytes | memoryview:
    """`frames`[rows], one part of a compressed array. Other threads may run meanwhile.

    Args:
        frames, rows, buffer: as of `common.frame_deltas.encode`. The buffer is read from where a
            memoryview is returned.
        method: one of `METHODS`.
    """
    differences = buffer[: encode(frames, rows, buffer)]
    if method == DELTA:
        return differences.data
    # Of this memory, what is not written to costs nothing.
    packed = np.empty(differences.nbytes + differences.nbytes // 255 + _MARGIN_BYTES, np.uint8)
    if method == f"{DELTA}+lz4":
        size = cramjam.lz4.compress_block_into(differences.data, packed.data, store_size=False)
    else:
        size = cramjam.zstd.compress_into(differences.data, packed.data, level=_ZSTD_LEVEL)
    return packed[:size].tobytes()


def joined(
    parts: Sequence[bytes | memoryview],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    method: str,
) -> CompressedArray | None:
    """The array whose `pieces` were packed into these parts; None if that makes it no smaller."""
    sizes = np.array([len(parts), *map(len, parts)], PART_SIZE)
    nbytes = math.prod(shape) * dtype.itemsize
    if sizes.nbytes + int(sizes[1:].sum()) >= nbytes:
        return None
    data = np.frombuffer(b"".join((sizes.tobytes(), *parts)), np.uint8)
    return CompressedArray(dtype, shape, nbytes, method, data)
