"""Blocks of experience, newest over oldest.

Block numbers count up from 1 and are never reused; block number b lies in slot b mod slots, so a
new block evicts the oldest one. Where the buffer is a file, the file is the memory: after a crash
of the process, what was written is still there, and an insert that was being written at that moment
is not: its slots count as empty.
"""

import mmap
import secrets
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.block_columns import (
    INSTANCE,
    NEXT_NUMBER,
    BlockColumns,
    block_bytes,
    buffer_header,
    memory_fence,
)
from common.blocks import BlockLayout, RowKind
from common.compression import CompressedArray, unpacked
from common.messages import Insert
from common.spec import EnvSpec
from replay_server.placement import map_buffer

_LAST = int(RowKind.LAST)

Int64Vector = npt.NDArray[np.int64]


class Storage(BlockColumns):
    """Columns of `slots` blocks. Everything is written by one thread.

    Args:
        path: file to keep the blocks in; made if it is not there, continued if it is. None keeps
            them in this process's memory.

    Raises:
        CheckpointError: the file holds blocks of another shape.
        ZapexError: there is no room for them.
    """

    def __init__(
        self, spec: EnvSpec, layout: BlockLayout, slots: int, path: Path | None = None
    ) -> None:
        buffer = map_buffer(
            path, block_bytes(spec, layout, slots), buffer_header(spec, layout, slots)
        )
        super().__init__(spec, layout, slots, buffer)
        self.path = path
        if self.counters[NEXT_NUMBER] == 0:
            self.counters[NEXT_NUMBER] = 1
        self.counters[INSTANCE] = secrets.randbits(62)
        self.number[self.number >= self.counters[NEXT_NUMBER]] = 0

    def write(self, insert: Insert) -> tuple[Int64Vector, npt.NDArray[np.bool_]]:
        """Store the B blocks of an insert over the oldest ones.

        Returns:
            The slots written [B], and which rows may start a transition [B, L].
        """
        blocks = len(insert.action)
        numbers = self.next_number + np.arange(blocks)
        slots = numbers % self.slots
        first = int(slots[0])
        # Mostly the slots are neighbours, and copying to a slice costs half of copying to a list.
        at = slots if first + blocks > self.slots else slice(first, first + blocks)
        self.number[at] = 0
        memory_fence()
        self.session[at] = insert.session
        self.sequence[at] = insert.sequence
        self.version[at] = insert.weights_version
        if isinstance(insert.obs, CompressedArray) and isinstance(at, slice):
            insert.obs.copy_to(self.obs[at])
        else:
            self.obs[at] = unpacked(insert.obs)
        self.action[at] = insert.action
        self.reward[at] = insert.reward
        self.row_kind[at] = insert.row_kind
        self.priority[at] = insert.priority
        memory_fence()
        self.number[at] = numbers
        # Written last, and at once: with this the insert is whole, all of it or nothing.
        self.counters[NEXT_NUMBER] += blocks
        return slots, self.starts(insert.row_kind)

    @property
    def instance(self) -> int:
        """Tells this server's buffer from any other."""
        return int(self.counters[INSTANCE])

    @property
    def next_number(self) -> int:
        """The number the next block will have."""
        return int(self.counters[NEXT_NUMBER])

    def filled(self) -> Int64Vector:
        """Slots that hold a whole block."""
        return np.flatnonzero(self.number)

    def starts(self, row_kind: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Which of the L rows of each block may start a transition, [B, L]."""
        context = self.layout.context
        kinds = row_kind[:, context : context + self.layout.length]
        starts: npt.NDArray[np.bool_] = (kinds & _LAST) == 0
        return starts

    def keys(self, items: Int64Vector) -> Int64Vector:
        """Keys of items [N] (slot × L + row − C)."""
        slots, offsets = np.divmod(items, self.layout.length)
        keys: Int64Vector = self.number[slots] * self.layout.length + offsets
        return keys

    def flush(self) -> None:
        """Write what changed to the disk. Does nothing without a file."""
        if isinstance(self.buffer, mmap.mmap):
            self.buffer.flush()
