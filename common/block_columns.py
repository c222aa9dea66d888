"""How blocks lie in memory: one array per column, in one buffer.

    header (4,096 bytes) │ counters │ number │ session │ … │ obs │ step │ …   each page-aligned

Slot s holds one block: its number, who sent it, and its rows. The replay server writes the buffer;
a learner on the same host reads it through a mapping of the same file. Who reads while another
process writes looks at a block's number before and after: a writer sets it to 0 before it touches
the block's rows, and to the new number behind them.
"""

import json
import math
import mmap
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from common.blocks import BlockLayout, RowKind
from common.spec import EnvSpec

MAGIC = b"zapex replay "
_FORMAT = b"4\n"
HEADER_BYTES = 4096
_ALIGNMENT = 4096
# Side by side: a transition's n rows lie in one or two cache lines.
_STEP = np.dtype([("reward", np.float32), ("action", np.int32), ("row_kind", np.uint8)], align=True)
_LAST = int(RowKind.LAST)
INSERTED, SAMPLED, NEXT_NUMBER, INSTANCE, HOME = range(5)
"""Places in `BlockColumns.counters`."""

Int64Vector = npt.NDArray[np.int64]


class BlockColumns:
    """Views of a buffer of at least `block_bytes(...)` bytes as the columns of `slots` blocks."""

    def __init__(
        self, spec: EnvSpec, layout: BlockLayout, slots: int, buffer: "mmap.mmap | bytearray"
    ) -> None:
        self.spec, self.layout, self.slots = spec, layout, slots
        self.buffer = buffer
        offsets, self.nbytes = _offsets(spec, layout, slots)
        arrays = {
            name: np.frombuffer(buffer, dtype, int(np.prod(shape)), offsets[name]).reshape(shape)
            for name, (shape, dtype) in _columns(spec, layout, slots).items()
        }
        self.counters: Int64Vector = arrays["counters"]
        """Transitions inserted, transitions sampled since the run began; the next block number
        (blocks from that number on belong to an insert that was not finished); a random number
        that tells this buffer from any other; the file and the running kernel that it was last
        written under (`replay_server/placement.py`)."""
        self.number: Int64Vector = arrays["number"]
        self.session: Int64Vector = arrays["session"]
        self.sequence: Int64Vector = arrays["sequence"]
        self.version: Int64Vector = arrays["version"]
        self.checksum: npt.NDArray[np.uint64] = arrays["checksum"]
        """Of all that a block consists of but its priorities, which change
        (`replay_server/checksum.py`)."""
        self.obs: npt.NDArray[Any] = arrays["obs"]
        """[slots, R, *obs_shape]"""
        step = arrays["step"]
        self.action: npt.NDArray[np.int32] = step["action"]
        self.reward: npt.NDArray[np.float32] = step["reward"]
        self.row_kind: npt.NDArray[np.uint8] = step["row_kind"]
        self.priority: npt.NDArray[np.float32] = arrays["priority"]
        """[slots, L], |δ|"""
        self.obs_rows = self.obs.reshape(slots * layout.rows, *spec.obs_shape)
        # Columns begin and end with pages: there are whole words behind their last bytes, too.
        self.obs_words, self.step_words = (
            np.frombuffer(buffer, np.uint64, -(-arrays[name].nbytes // 8), offsets[name])
            for name in ("obs", "step")
        )
        self.obs_bytes, self.step_bytes = self.obs.nbytes // slots, step.nbytes // slots
        """Of one block."""

    def live_items(self, key: Int64Vector) -> tuple[Int64Vector, npt.NDArray[np.bool_]]:
        """Items (slot × L + row − C) of these keys [K], and which of the keys are still stored and
        name a row that starts a transition [K].

        A fence on both sides: what is read before or after it, is read before or after."""
        return _live_items(  # type: ignore[no-any-return]
            key, self.layout.length, self.layout.context, self.number, self.row_kind
        )

    def all_live(self, key: Int64Vector) -> bool:
        """As `live_items`: whether all of them are."""
        return _all_live(  # type: ignore[no-any-return]
            key, self.layout.length, self.layout.context, self.number, self.row_kind
        )


def block_bytes(spec: EnvSpec, layout: BlockLayout, slots: int) -> int:
    """Bytes of a buffer for so many blocks."""
    return _offsets(spec, layout, slots)[1]


def buffer_header(spec: EnvSpec, layout: BlockLayout, slots: int) -> bytes:
    """What a buffer of this shape begins with; any difference means another shape."""
    description = {
        "spec": spec.to_plain(),
        "context": layout.context,
        "length": layout.length,
        "n_step": layout.n_step,
        "slots": slots,
    }
    return MAGIC + _FORMAT + json.dumps(description, sort_keys=True).encode()


def _columns(
    spec: EnvSpec, layout: BlockLayout, slots: int
) -> dict[str, tuple[tuple[int, ...], Any]]:
    rows = layout.rows
    return {
        "counters": ((8,), np.int64),
        "number": ((slots,), np.int64),
        "session": ((slots,), np.int64),
        "sequence": ((slots,), np.int64),
        "version": ((slots,), np.int64),
        "checksum": ((slots,), np.uint64),
        "obs": ((slots, rows, *spec.obs_shape), spec.dtype),
        "step": ((slots, rows), _STEP),
        "priority": ((slots, layout.length), np.float32),
    }


def _offsets(spec: EnvSpec, layout: BlockLayout, slots: int) -> tuple[dict[str, int], int]:
    offsets, end = {}, HEADER_BYTES
    for name, (shape, dtype) in _columns(spec, layout, slots).items():
        offsets[name] = end
        # Python's own integers: a replay beyond all bounds is refused by its true size.
        end += math.prod(shape) * np.dtype(dtype).itemsize
        end = -(-end // _ALIGNMENT) * _ALIGNMENT
    return offsets, end


@intrinsic
def _fence(typing_context):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return numba.types.none(), codegen


@numba.njit(cache=True)
def memory_fence() -> None:
    """What was read and written before this is done before what follows is, in every process's
    eyes."""
    _fence()


@numba.njit(cache=True)
def live_item(key, length, context, number, row_kind):  # type: ignore[no-untyped-def]
    """The item of a key, or -1."""
    if key < length:  # Block numbers start at 1; negative keys are nobody's.
        return -1
    block = key // length
    slot = block % number.shape[0]
    offset = key - block * length
    if number[slot] != block or row_kind[slot, context + offset] & _LAST != 0:
        return -1
    return slot * length + offset


@numba.njit(cache=True)
def _live_items(key, length, context, number, row_kind):  # type: ignore[no-untyped-def]
    _fence()
    n = key.shape[0]
    items = np.zeros(n, np.int64)
    live = np.zeros(n, np.bool_)
    for i in range(n):
        item = live_item(key[i], length, context, number, row_kind)
        if item >= 0:
            items[i] = item
            live[i] = True
    _fence()
    return items, live


@numba.njit(cache=True)
def _all_live(key, length, context, number, row_kind):  # type: ignore[no-untyped-def]
    _fence()
    live = True
    for i in range(key.shape[0]):
        live &= live_item(key[i], length, context, number, row_kind) >= 0
    _fence()
    return live
