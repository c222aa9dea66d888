"""Compression of large arrays on the wire: a method by its name in the header.

Images compress 20 to 150 times, faster than loopback carries them; floats hardly at all. Only
arrays of bytes are compressed.
"""

from dataclasses import dataclass
from typing import Any

import cramjam
import numpy as np
import numpy.typing as npt

from common.errors import MalformedMessage

METHODS = ("lz4", "zstd")
MIN_BYTES = 32 << 10
"""Smaller arrays are left alone."""
_ZSTD_LEVEL = 1
_MARGIN_BYTES = 4096
"""By which the result may at worst be longer, beside a 255th: both methods' bounds are less."""


@dataclass(frozen=True, slots=True)
class CompressedArray:
    """An array as it came over the wire, unpacked by whoever knows where it is to lie."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int
    """Unpacked."""
    method: str
    data: npt.NDArray[np.uint8]

    def copy_to(self, out: npt.NDArray[Any]) -> None:
        """Unpack into a C-contiguous array of this dtype and as many elements.

        Raises MalformedMessage when the data is not what it claims to be; `out` may hold part of
        it then.
        """
        flat = out.reshape(-1).view(np.uint8)
        try:
            if self.method == "lz4":
                size = cramjam.lz4.decompress_block_into(self.data.data, flat.data)
            else:
                size = cramjam.zstd.decompress_into(self.data.data, flat.data)
        except cramjam.DecompressionError as error:
            raise MalformedMessage(f"an array is no {self.method}: {error}") from error
        if size != self.nbytes:
            raise MalformedMessage(f"an array unpacks to {size} bytes, {self.nbytes} announced")


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


def pays(nbytes: int, dtype: np.dtype[Any], method: str) -> bool:
    """Whether `compressed` would try."""
    return method in METHODS and dtype == np.uint8 and nbytes >= MIN_BYTES


def compressed(array: npt.NDArray[Any], method: str) -> Array:
    """The array compressed by one of `METHODS`, or itself where that would not pay: it is small,
    not made of bytes, or does not get smaller."""
    if not pays(array.nbytes, array.dtype, method):
        return array
    flat = np.ascontiguousarray(array).reshape(-1)
    # Memory that is not written to costs nothing.
    packed = np.empty(flat.nbytes + flat.nbytes // 255 + _MARGIN_BYTES, np.uint8)
    if method == "lz4":
        size = cramjam.lz4.compress_block_into(flat.data, packed.data, store_size=False)
    else:
        size = cramjam.zstd.compress_into(flat.data, packed.data, level=_ZSTD_LEVEL)
    if size >= flat.nbytes:
        return array
    return CompressedArray(array.dtype, array.shape, flat.nbytes, method, packed[:size])
