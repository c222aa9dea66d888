"""Frames as what differs from the frame before: most of a game's screen stays as it is.

Of every group of 16 bytes one bit tells whether it is as in the frame before; where it is not, its
bytes are kept. To find and to restore them takes twice as long as to copy the frames there and
back, and a thirtieth to a fifth of the bytes is left, on which a general method has less to do.

    masks      for each of the F frames, ⌈G / 8⌉ bytes: bit g % 8 of byte g // 8 tells whether
               group g is given
    groups     the bytes of those that are, frame by frame

A frame of B ≥ 16 bytes has G = ⌈B / 16⌉ groups; the last is its last 16 bytes, and may begin within
the one before it. For frames [N, U] the frame before is that of the same n, and for u = 0 the first
of n − 1; that of the very first is all zeros.
"""

from functools import partial
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import intrinsic

from common.errors import MalformedMessage

GROUP_BYTES = 16
_U1, _INT = numba.types.uint8, numba.types.int64


def most_bytes(frames: int, frame_bytes: int) -> int:
    """What so many frames take at most."""
    groups = -(-frame_bytes // GROUP_BYTES)
    return frames * (-(-groups // 8) + groups * GROUP_BYTES)


def encode(
    frames: npt.NDArray[Any], rows: npt.NDArray[np.int64], out: npt.NDArray[np.uint8]
) -> int:
    """`frames`[rows] as differences into `out`; returns the number of bytes.

    Other threads may run meanwhile.

    Args:
        frames: [M, …], of at least 16 bytes each.
        rows: [N, U], in 0 … M − 1.
        out: [≥ `most_bytes`]; all are C-contiguous.
    """
    flat = frames.reshape(len(frames), -1).view(np.uint8)
    if flat.shape[1] < GROUP_BYTES or len(out) < most_bytes(rows.size, flat.shape[1]):
        raise ValueError(f"frames {frames.shape} at rows {rows.shape} into {len(out)} bytes")
    rows = np.ascontiguousarray(rows)
    return int(_encode(flat, rows, out, _nothing(flat.shape[1])))


def decode(data: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> None:
    """C-contiguous frames [N, U, B] from their differences. Other threads may run meanwhile.

    Raises MalformedMessage when these are not theirs; `out` may hold part of them then.
    """
    size = out.shape[2]
    if size < GROUP_BYTES or _decode(data, out, _nothing(size)) != len(data):
        raise MalformedMessage(f"{len(data)} bytes are no differences of frames {out.shape}")


def _nothing(frame_bytes: int) -> npt.NDArray[np.uint8]:
    """What is before the first frame. Whoever calls a compiled function holds it: that frees what
    it made itself once it has the address, before it reads from there."""
    return np.zeros(frame_bytes, np.uint8)


def _vectors(builder: Any, addresses: Any) -> list[Any]:
    vector = ir.IntType(8 * GROUP_BYTES).as_pointer()
    return [builder.inttoptr(address, vector) for address in addresses]


@intrinsic
def _differ(typing_context, left, right):  # type: ignore[no-untyped-def]
    """Whether the groups at two addresses do."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        groups = [builder.load(v, align=1) for v in _vectors(builder, arguments)]
        return builder.icmp_unsigned("!=", *groups)

    return numba.types.boolean(left, right), codegen


@intrinsic
def _copy(typing_context, target, source):  # type: ignore[no-untyped-def]
    """A group from one address to another."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to, place = _vectors(builder, arguments)
        builder.store(builder.load(place, align=1), to, align=1)
        return context.get_dummy_value()

    return numba.types.void(target, source), codegen


# Compiled when this is imported, once for all roles of a run, for arrays that lie in one piece.
_Read = partial(numba.types.Array, layout="C", readonly=True)
_FRAMES, _ROWS, _BYTES = _Read(_U1, 2), _Read(numba.types.int64, 2), _Read(_U1, 1)


@numba.njit(_INT(_FRAMES, _ROWS, _U1[::1], _BYTES), cache=True, nogil=True)
def _encode(frames, rows, out, nothing):  # type: ignore[no-untyped-def]
    n, u = rows.shape
    last, size = frames.shape[0] - 1, frames.shape[1]
    groups = (size + GROUP_BYTES - 1) // GROUP_BYTES
    first = np.int64(frames.ctypes.data)
    before = np.int64(nothing.ctypes.data)
    start = np.int64(out.ctypes.data)
    mask, group = 0, start + n * u * ((groups + 7) // 8)
    for i in range(n):
        begin = before
        for j in range(u):
            # As `copy_frames` has it: the rows are in range, and if not, nothing else is read.
            frame = first + min(max(rows[i, j], 0), last) * size
            if j == 0:
                begin = frame
            for g in range(0, groups, 8):
                bits = 0
                for k in range(min(8, groups - g)):
                    offset = min((g + k) * GROUP_BYTES, size - GROUP_BYTES)
                    if _differ(frame + offset, before + offset):
                        _copy(group, frame + offset)
                        group += GROUP_BYTES
                        bits |= 1 << k
                out[mask] = bits
                mask += 1
            before = frame
        before = begin
    return group - start


@numba.njit(_INT(_BYTES, _U1[:, :, ::1], _BYTES), cache=True, nogil=True)
def _decode(data, out, nothing):  # type: ignore[no-untyped-def]
    """Bytes used; -1: they were too few."""
    n, u, size = out.shape
    groups = (size + GROUP_BYTES - 1) // GROUP_BYTES
    mask_bytes = n * u * ((groups + 7) // 8)
    if data.size < mask_bytes:
        return -1
    before = np.int64(nothing.ctypes.data)
    start = np.int64(data.ctypes.data)
    mask, group, end = 0, start + mask_bytes, start + data.size
    frame = np.int64(out.ctypes.data)
    for _ in range(n):
        begin = frame
        for _ in range(u):
            for g in range(0, groups, 8):
                bits = data[mask]
                mask += 1
                for k in range(min(8, groups - g)):
                    offset = min((g + k) * GROUP_BYTES, size - GROUP_BYTES)
                    if bits & (1 << k):
                        if group + GROUP_BYTES > end:
                            return -1
                        _copy(frame + offset, group)
                        group += GROUP_BYTES
                    else:
                        _copy(frame + offset, before + offset)
            before = frame
            frame += size
        before = begin
    return group - start
