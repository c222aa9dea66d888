"""Blocks of experience, newest over oldest.

Block numbers count up from 1 and are never reused; block number b lies in slot b mod slots, so a
new block evicts the oldest one. Where the buffer is a file, the file is the memory: after a crash
of the process, what was written is still there, and an insert that was being written at that moment
is not: its slots count as empty. After a crash of the machine each page of the file is as old as
its last way to the disk: blocks that do not have their checksum are dropped.
"""

import logging
import mmap
import secrets
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from common.block_columns import (
    HOME,
    INSTANCE,
    NEXT_NUMBER,
    BlockColumns,
    block_bytes,
    buffer_header,
    live_item,
    memory_fence,
)
from common.blocks import BlockLayout, RowKind
from common.compression import Array, CompressedArray, unpacked
from common.errors import CheckpointError
from common.messages import Insert
from common.spec import EnvSpec
from replay_server.checksum import block_checksum, whole_blocks
from replay_server.placement import home_of, map_buffer

_LAST = int(RowKind.LAST)
_MAX_KEY = 1 << 62
"""Of all keys that are ever given; they are 64-bit integers."""

log = logging.getLogger(__name__)

Int64Vector = npt.NDArray[np.int64]


class Storage(BlockColumns):
    """Columns of `slots` blocks. Everything is written by one thread.

    Args:
        path: file to keep the blocks in; made if it is not there, continued if it is. None keeps
            them in this process's memory.
        beside: as of `map_buffer`.

    Raises:
        CheckpointError: the file holds blocks of another shape, or is damaged beyond use.
        ZapexError: there is no room for them.
    """

    def __init__(
        self,
        spec: EnvSpec,
        layout: BlockLayout,
        slots: int,
        path: Path | None = None,
        *,
        beside: int = 0,
    ) -> None:
        nbytes = block_bytes(spec, layout, slots)
        shortened = path is not None and path.exists() and path.stat().st_size < nbytes
        buffer = map_buffer(path, nbytes, buffer_header(spec, layout, slots), beside)
        super().__init__(spec, layout, slots, buffer)
        self.path = path
        self.torn = 0
        """Blocks that were not found as they had been written, and were dropped."""
        home = 0 if path is None else home_of(path)
        if path is not None and (shortened or not home or self.counters[HOME] != home):
            # Until all have been looked at: who is killed meanwhile looks again.
            self.counters[HOME] = 0
            self._verify()
        if self.counters[NEXT_NUMBER] == 0:
            self.counters[NEXT_NUMBER] = 1
        self.counters[INSTANCE] = secrets.randbits(62)
        self.number[self.number >= self.counters[NEXT_NUMBER]] = 0
        self.counters[HOME] = home

    def write(self, insert: Insert, obs: Array | None = None) -> tuple[int, npt.NDArray[np.bool_]]:
        """Store the B blocks of an insert over the oldest ones.

        Args:
            obs: its observations, if they are at hand unpacked.

        Returns:
            The slot of the first; the others lie in those that follow, and behind the last slot
            comes slot 0. Which rows may start a transition, [B, L].
        """
        blocks = len(insert.action)
        number = self.next_number
        first = number % self.slots
        _number_blocks(self.number, first, blocks, 0)
        memory_fence()
        self._write_obs(insert.obs if obs is None else obs, first)
        starts: npt.NDArray[np.bool_] = _write_columns(
            first,
            number,
            insert.session,
            insert.sequence,
            insert.weights_version,
            insert.action,
            insert.reward,
            insert.row_kind,
            insert.priority,
            self.session,
            self.sequence,
            self.version,
            self.action,
            self.reward,
            self.row_kind,
            self.priority,
            self.layout.context,
            self.checksum,
            self.obs_words,
            self.obs_bytes,
            self.step_words,
            self.step_bytes,
        )
        memory_fence()
        _number_blocks(self.number, first, blocks, number)
        # Written last, and at once: with this the insert is whole, all of it or nothing.
        self.counters[NEXT_NUMBER] = number + blocks
        return first, starts

    def _write_obs(self, obs: Array, first: int) -> None:
        end = first + obs.shape[0]
        if end > self.slots:
            at_the_end = self.slots - first
            whole = unpacked(obs)
            self.obs[first:] = whole[:at_the_end]
            self.obs[: end - self.slots] = whole[at_the_end:]
        elif isinstance(obs, CompressedArray):
            obs.copy_to(self.obs[first:end])
        else:
            self.obs[first:end] = obs

    def write_priorities(
        self, key: Int64Vector, priority: npt.NDArray[np.float32]
    ) -> tuple[Int64Vector, npt.NDArray[np.float32]]:
        """New |δ| [K] of the transitions with these keys [K]; for one that comes twice the last
        counts.

        Returns:
            Items (slot × L + row − C) and |δ| of those that are still stored, in that order.
        """
        items, kept = np.empty(len(key), np.int64), np.empty(len(key), np.float32)
        length, context = self.layout.length, self.layout.context
        columns = self.number, self.row_kind, self.priority.reshape(-1)
        stored = _write_priorities(key, priority, length, context, *columns, items, kept)
        return items[:stored], kept[:stored]

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
        starts: npt.NDArray[np.bool_] = _starts(row_kind, self.layout.context, self.layout.length)
        return starts

    def keys(self, items: Int64Vector) -> Int64Vector:
        """Keys of items [N] (slot × L + row − C)."""
        keys: Int64Vector = _keys(items, self.layout.length, self.number)
        return keys

    def _verify(self) -> None:
        """Drop what the disk does not have as it was written: blocks that were on their way when
        the machine went down, or that were damaged since."""
        counters = self.counters
        committed = int(counters[NEXT_NUMBER])
        if not (0 <= committed < _MAX_KEY // self.layout.length and (counters[:2] >= 0).all()):
            raise CheckpointError(
                f"{self.path} is damaged (its counters are impossible): remove it to start without "
                "its experience"
            )
        whole = whole_blocks(
            self.checksum,
            self.number,
            self.session,
            self.sequence,
            self.version,
            self.obs_words,
            self.obs_bytes,
            self.step_words,
            self.step_bytes,
        )
        # What was not committed was not acknowledged either; it may be half an insert.
        torn = ~whole & (self.number != 0) & (self.number < committed)
        self.torn = int(np.count_nonzero(torn))
        # A learner elsewhere may still hold keys of blocks that are dropped here.
        newest = int(self.number[whole].max(initial=0))
        self.number[~whole | (self.number >= committed)] = 0
        counters[NEXT_NUMBER] = max(committed, newest + 1)
        # Of pages of their own: they may be as of another time, but each is a |δ|.
        possible = (self.priority >= 0) & (self.priority < np.inf)
        if not possible.all():
            self.priority[~possible] = self.priority[possible].max(initial=1.0)
        log.log(
            logging.WARNING if self.torn else logging.INFO,
            "%s: of %d blocks %d are torn or damaged, and are dropped",
            self.path, self.torn + len(self.filled()), self.torn,
        )  # fmt: skip

    def flush(self) -> None:
        """Write what changed to the disk. Does nothing without a file."""
        if isinstance(self.buffer, mmap.mmap):
            self.buffer.flush()


@numba.njit(cache=True, nogil=True)
def _number_blocks(column, first, blocks, number):  # type: ignore[no-untyped-def]
    """Number the blocks that begin in slot `first`; `number` 0: they are no blocks."""
    slots = column.shape[0]
    for b in range(blocks):
        column[(first + b) % slots] = number + b if number else 0


@numba.njit(cache=True, nogil=True)
def _starts(row_kind, context, length):  # type: ignore[no-untyped-def]
    blocks = row_kind.shape[0]
    starts = np.empty((blocks, length), np.bool_)
    for b in range(blocks):
        for t in range(length):
            starts[b, t] = row_kind[b, context + t] & _LAST == 0
    return starts


# One call: a copy of each column in numpy costs more than the copying itself. The observations are
# in the storage already; the checksum is of them, too. numba's cache on the disk looks at this file
# alone: whoever changes block_checksum or live_item must touch it, or the old one stays in use.
@numba.njit(cache=True, nogil=True)
def _write_columns(  # type: ignore[no-untyped-def]
    first,
    number,
    session,
    sequence,
    version,
    action,
    reward,
    row_kind,
    priority,
    to_session,
    to_sequence,
    to_version,
    to_action,
    to_reward,
    to_row_kind,
    to_priority,
    context,
    to_checksum,
    obs_words,
    obs_bytes,
    step_words,
    step_bytes,
):
    blocks, rows = action.shape
    length = priority.shape[1]
    slots = to_session.shape[0]
    for b in range(blocks):
        slot = (first + b) % slots
        to_session[slot] = session
        to_sequence[slot] = sequence
        to_version[slot] = version
        for t in range(rows):
            to_action[slot, t] = action[b, t]
            to_reward[slot, t] = reward[b, t]
            to_row_kind[slot, t] = row_kind[b, t]
        for t in range(length):
            to_priority[slot, t] = priority[b, t]
        to_checksum[slot] = block_checksum(
            slot,
            number + b,
            session,
            sequence,
            version,
            obs_words,
            obs_bytes,
            step_words,
            step_bytes,
        )
    return _starts(row_kind, context, length)


# The rows are all over the memory. First all are read, and then all are written: no read waits.
@numba.njit(cache=True, nogil=True)
def _write_priorities(  # type: ignore[no-untyped-def]
    key, priority, length, context, number, row_kind, to_priority, items, kept
):
    stored = 0
    for i in range(key.shape[0]):
        item = live_item(key[i], length, context, number, row_kind)
        items[stored], kept[stored] = item, priority[i]
        stored += item >= 0
    for i in range(stored):
        to_priority[items[i]] = kept[i]
    return stored


@numba.njit(cache=True, nogil=True)
def _keys(items, length, number):  # type: ignore[no-untyped-def]
    keys = np.empty(items.shape[0], np.int64)
    for i in range(items.shape[0]):
        slot = items[i] // length
        keys[i] = number[slot] * length + items[i] - slot * length
    return keys
