"""Compressed arrays in several parts, as a replay server makes them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.compression import CompressedArray, pieces
from common.frame_deltas import most_bytes
from common.packing import joined, pack


def packed_frames(frames: npt.NDArray[Any], method: str, parts: int = 1) -> CompressedArray:
    """Frames [N, U, ...], which the method must make smaller."""
    flat = frames.reshape(-1, *frames.shape[2:])
    rows = np.arange(len(flat)).reshape(frames.shape[:2])
    buffers = [np.empty(most_bytes(len(flat), flat[:1].nbytes), np.uint8) for _ in range(parts)]
    cuts = zip(pieces(len(frames), parts), buffers, strict=False)
    made = [pack(flat, rows[cut], method, buffer) for cut, buffer in cuts]
    array = joined(made, frames.shape, frames.dtype, method)
    assert array is not None
    return array
