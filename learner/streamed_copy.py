"""Rows copied past the caches, for batches that would not fit there.

An ordinary store fetches the line that it overwrites from memory first, and another line makes room
for it. A streaming store ("non-temporal", LLVM's `!nontemporal`) does neither, so that fewer bytes
cross the memory's bus.
"""

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import intrinsic

from common.block_columns import memory_fence

STREAMED_BYTES = 16
"""Of one store: rows are as many bytes, or a multiple, and begin at such an address."""


def can_stream(source: npt.NDArray[Any], out: npt.NDArray[Any]) -> bool:
    """Whether the rows of `source`, [M, …], can be streamed into `out`, [K, …]."""
    row_bytes = source[:1].nbytes
    return (
        row_bytes > 0
        and row_bytes % STREAMED_BYTES == 0
        and out.ctypes.data % STREAMED_BYTES == 0
        and source.flags.c_contiguous
        and out.flags.c_contiguous
    )


def stream_rows(
    source: npt.NDArray[Any], rows: npt.NDArray[np.int64], out: npt.NDArray[Any]
) -> None:
    """`source`[rows] into `out`: [M, …], [K] and [K, …], of one dtype and with `can_stream`. Other
    threads may run meanwhile. Raises ValueError when rows of `out` are not as many or as long."""
    if out.shape != (len(rows), *source.shape[1:]) or out.dtype != source.dtype:
        raise ValueError(
            f"rows {rows.shape} of {source.dtype} {source.shape} into {out.dtype} {out.shape}"
        )
    _stream(_as_bytes(source), rows, _as_bytes(out))


def _as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return array.reshape(len(array), math.prod(array.shape[1:])).view(np.uint8)


@intrinsic
def _stream_vector(typing_context, target, source):  # type: ignore[no-untyped-def]
    """16 bytes from one address to another, which is a multiple of 16."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        vector = ir.VectorType(ir.IntType(8), STREAMED_BYTES).as_pointer()
        to, since = (builder.inttoptr(address, vector) for address in arguments)
        value = builder.load(since, align=1)
        store = builder.store(value, to, align=STREAMED_BYTES)
        true = ir.Constant(ir.IntType(32), 1)
        store.set_metadata("nontemporal", builder.module.add_metadata([true]))
        return context.get_dummy_value()

    return numba.types.void(target, source), codegen


@numba.njit(cache=True, nogil=True)
def _stream(source, rows, out):  # type: ignore[no-untyped-def]
    last, row_bytes = source.shape[0] - 1, source.shape[1]
    first, target = np.int64(source.ctypes.data), np.int64(out.ctypes.data)
    for i in range(rows.size):
        # As `copy_frames` has it: the rows are in range, and if not, nothing else is read.
        since = first + min(max(rows[i], 0), last) * row_bytes
        for offset in range(0, row_bytes, STREAMED_BYTES):
            _stream_vector(target + offset, since + offset)
        target += row_bytes
    # They are in no order with other stores: whoever hears that this is done must see them.
    memory_fence()
