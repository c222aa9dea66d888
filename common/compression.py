"""Compression of images on the wire: a method by its name in the header, parts in the data.

Images are sent as what differs from the frame before (`common/frame_deltas.py`): 3 to 18% of the
bytes of Atari's screens. Between hosts these differences are compressed, to 0.5 to 3% of them.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import cramjam
import numpy as np
import numpy.typing as npt

from common.errors import MalformedMessage

DELTA = "delta"
METHODS = (DELTA, f"{DELTA}+lz4", f"{DELTA}+zstd")
"""All that may stand in a header: differences as they are, or compressed."""
COMPRESSIBLE = ("|u1", "|b1")
"""Dtypes of what is compressed."""
PART_SIZE = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class CompressedArray:
    """Frames [N, U, ...] as they came over the wire, unpacked by whoever knows where they are to
    lie.

    They are compressed in P parts, so that several threads can: the first axis is cut into P pieces
    of ⌈N / P⌉, the last of which may be shorter.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int
    """Unpacked."""
    method: str
    """One of `METHODS`."""
    data: npt.NDArray[np.uint8]
    """P, the sizes of the P parts, each as a little-endian uint32, and the parts themselves."""

    def copy_to(self, out: npt.NDArray[Any]) -> None:
        """Unpack into a C-contiguous array of this dtype and as many elements.

        Raises MalformedMessage when the data is not what it claims to be; `out` may hold part of
        it then.
        """
        # Numba takes half a second to be imported, which everyone who sends messages would spend.
        from common.frame_deltas import decode, most_bytes

        parts = self._parts()
        n, u = self.shape[0], math.prod(self.shape[1:2]) or 1
        frames = out.reshape(-1).view(np.uint8).reshape(n, u, -1)
        for piece, part in zip(pieces(n, len(parts)), parts, strict=True):
            if self.method != DELTA:
                count = (piece.stop - piece.start) * u
                part = _unpacked(part, most_bytes(count, frames.shape[2]), self.method)
            decode(part, frames[piece])

    def _parts(self) -> list[npt.NDArray[np.uint8]]:
        """Raises MalformedMessage when they are not as announced."""
        length = self.shape[0] if self.shape else 0
        count = int(self.data[:4].view(PART_SIZE)[0]) if len(self.data) >= 4 else 0
        begin = PART_SIZE.itemsize * (1 + count)
        if not 1 <= count <= length or begin > len(self.data):
            raise MalformedMessage(f"an array of shape {self.shape} cannot be in {count} parts")
        sizes = self.data[PART_SIZE.itemsize : begin].view(PART_SIZE).tolist()
        bounds = list(itertools.accumulate(sizes, initial=begin))
        if bounds[-1] != len(self.data) or len(pieces(length, count)) != count:
            raise MalformedMessage(f"{count} parts of an array do not make {len(self.data)} bytes")
        return [self.data[i:j] for i, j in itertools.pairwise(bounds)]


Array = npt.NDArray[Any] | CompressedArray


def unpacked(source: Array) -> npt.NDArray[Any]:
    """The array itself. Raises MalformedMessage when it cannot be unpacked."""
    if not isinstance(source, CompressedArray):
        return source
    out = np.empty(source.shape, source.dtype)
    source.copy_to(out)
    return out


def copy_array(source: Array, out: npt.NDArray[Any]) -> None:
    """Copy, unpacking if need be, into a C-contiguous array of the same dtype and shape.

    Raises MalformedMessage when `source` is compressed and cannot be unpacked.
    """
    if isinstance(source, CompressedArray):
        source.copy_to(out)
    else:
        np.copyto(out, source)


def pieces(length: int, count: int) -> list[slice]:
    """An axis cut into `count` pieces of equal length, but for the last."""
    step = -(-length // count)
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def _unpacked(part: npt.NDArray[np.uint8], most: int, method: str) -> npt.NDArray[np.uint8]:
    """The differences that were compressed, at most so many bytes."""
    out = np.empty(most, np.uint8)
    try:
        if method == f"{DELTA}+lz4":
            size = cramjam.lz4.decompress_block_into(part.data, out.data)
        else:
            size = cramjam.zstd.decompress_into(part.data, out.data)
    except cramjam.DecompressionError as error:
        raise MalformedMessage(f"an array is no {method}: {error}") from error
    return out[:size]
