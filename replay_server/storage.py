"""Where blocks lie: one array per column, in memory or in a memory-mapped file.

Slot s holds one block: its number, who sent it, and its rows. Block numbers count up from 1 and are
never reused; block number b lies in slot b mod slots, so a new block evicts the oldest one. The
file is the memory: after a crash of the process, what was written is still there, and an insert
that was being written at that moment is not: its slots count as empty.
"""

import errno
import json
import mmap
import os
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from common.blocks import BlockLayout, RowKind
from common.errors import CheckpointError, ZapexError
from common.messages import Insert
from common.n_step import n_step_target
from common.spec import EnvSpec

_MAGIC = b"zapex replay 1\n"
_HEADER_BYTES = 4096
_ALIGNMENT = 4096
_LAST = int(RowKind.LAST)
INSERTED, SAMPLED, _NEXT = range(3)
"""Places in `Storage.counters`."""

Int64Vector = npt.NDArray[np.int64]


class Storage:
    """Columns of `slots` blocks. Everything is written by one thread.

    Args:
        path: file to keep the blocks in; made if it is not there, continued if it is. None keeps
            them in this process's memory.

    Raises:
        CheckpointError: the file holds blocks of another shape.
        ZapexError: the disk is full.
    """

    def __init__(
        self, spec: EnvSpec, layout: BlockLayout, slots: int, path: Path | None = None
    ) -> None:
        self.spec, self.layout, self.slots = spec, layout, slots
        rows, length = layout.rows, layout.length
        columns: dict[str, tuple[tuple[int, ...], Any]] = {
            "counters": ((8,), np.int64),
            "number": ((slots,), np.int64),
            "session": ((slots,), np.int64),
            "sequence": ((slots,), np.int64),
            "version": ((slots,), np.int64),
            "obs": ((slots, rows, *spec.obs_shape), spec.dtype),
            "action": ((slots, rows), np.int32),
            "reward": ((slots, rows), np.float32),
            "row_kind": ((slots, rows), np.uint8),
            "priority": ((slots, length), np.float32),
        }
        offsets, self.nbytes = _offsets(columns)
        buffer = _map(path, self.nbytes, self._describe())
        arrays = {
            name: np.frombuffer(buffer, dtype, int(np.prod(shape)), offsets[name]).reshape(shape)
            for name, (shape, dtype) in columns.items()
        }
        self._mapped = buffer
        self.counters: Int64Vector = arrays["counters"]
        """Transitions inserted, transitions sampled since the run began, and the next block
        number: blocks from that number on belong to an insert that was not finished."""
        self.number: Int64Vector = arrays["number"]
        self.session: Int64Vector = arrays["session"]
        self.sequence: Int64Vector = arrays["sequence"]
        self.version: Int64Vector = arrays["version"]
        self.obs: npt.NDArray[Any] = arrays["obs"]
        self.action: npt.NDArray[np.int32] = arrays["action"]
        self.reward: npt.NDArray[np.float32] = arrays["reward"]
        self.row_kind: npt.NDArray[np.uint8] = arrays["row_kind"]
        self.priority: npt.NDArray[np.float32] = arrays["priority"]
        self._obs_rows = self.obs.reshape(slots * rows, *spec.obs_shape)
        if self.counters[_NEXT] == 0:
            self.counters[_NEXT] = 1
        self.number[self.number >= self.counters[_NEXT]] = 0

    def _describe(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_plain(),
            "context": self.layout.context,
            "length": self.layout.length,
            "n_step": self.layout.n_step,
            "slots": self.slots,
        }

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
        self.session[at] = insert.session
        self.sequence[at] = insert.sequence
        self.version[at] = insert.weights_version
        self.obs[at] = insert.obs
        self.action[at] = insert.action
        self.reward[at] = insert.reward
        self.row_kind[at] = insert.row_kind
        self.priority[at] = insert.priority
        self.number[at] = numbers
        # Written last, and at once: with this the insert is whole, all of it or nothing.
        self.counters[_NEXT] += blocks
        return slots, self.starts(insert.row_kind)

    @property
    def next_number(self) -> int:
        """The number the next block will have."""
        return int(self.counters[_NEXT])

    def filled(self) -> Int64Vector:
        """Slots that hold a whole block."""
        return np.flatnonzero(self.number)

    def starts(self, row_kind: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Which of the L rows of each block may start a transition, [B, L]."""
        context = self.layout.context
        kinds = row_kind[:, context : context + self.layout.length]
        starts: npt.NDArray[np.bool_] = (kinds & _LAST) == 0
        return starts

    def gather(
        self, items: Int64Vector, discount: float
    ) -> tuple[
        npt.NDArray[Any],
        npt.NDArray[np.int32],
        npt.NDArray[np.float32],
        npt.NDArray[np.float32],
        npt.NDArray[Any],
        Int64Vector,
        float,
    ]:
        """The n-step transitions of N items (slot × L + row).

        Returns:
            obs, action, n_step_return, discount, next_obs, key, and the mean weights version.
        """
        action, n_step_return, discounts, row, bootstrap, key, version = _gather(
            items,
            self.layout.length,
            self.layout.context,
            self.layout.n_step,
            discount,
            self.number,
            self.version,
            self.action,
            self.reward,
            self.row_kind,
        )
        obs = self._obs_rows.take(row, axis=0)
        next_obs = self._obs_rows.take(bootstrap, axis=0)
        return obs, action, n_step_return, discounts, next_obs, key, version

    def live_items(self, key: Int64Vector) -> tuple[Int64Vector, npt.NDArray[np.bool_]]:
        """Items of these keys [K], and which of the keys are still stored and name a row that
        starts a transition [K]."""
        return _live_items(  # type: ignore[no-any-return]
            key, self.layout.length, self.layout.context, self.number, self.row_kind
        )

    def flush(self) -> None:
        """Write what changed to the disk. Does nothing without a file."""
        if isinstance(self._mapped, mmap.mmap):
            self._mapped.flush()


def _offsets(columns: dict[str, tuple[tuple[int, ...], Any]]) -> tuple[dict[str, int], int]:
    offsets, end = {}, _HEADER_BYTES
    for name, (shape, dtype) in columns.items():
        offsets[name] = end
        end += int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        end = -(-end // _ALIGNMENT) * _ALIGNMENT
    return offsets, end


def _map(path: Path | None, nbytes: int, description: dict[str, Any]) -> mmap.mmap:
    header = _MAGIC + json.dumps(description, sort_keys=True).encode()
    if path is None:
        return mmap.mmap(-1, nbytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "w+b") as file:
        found = file.read(_HEADER_BYTES).rstrip(b"\0")
        if found and found != header:
            raise CheckpointError(
                f"{path} holds experience of another environment, block layout or capacity: "
                "resume with the run's own settings, or remove the file to start without it"
            )
        try:
            # Reserves the space now: a disk that fills up later would kill the process (SIGBUS).
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, nbytes)
            else:
                file.truncate(nbytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise ZapexError(
                    f"no room for a replay of {nbytes / 1e9:.2f} GB at {path}: free the space, "
                    "choose another --storage, or lower replay_capacity"
                ) from error
            raise
        mapped = mmap.mmap(file.fileno(), nbytes)
    mapped[: len(header)] = header
    return mapped


@numba.njit(cache=True, nogil=True)
def _gather(  # type: ignore[no-untyped-def]
    items, length, context, n_step, gamma, number, version, action, reward, row_kind
):
    n = items.shape[0]
    rows = reward.shape[1]
    actions = np.empty(n, np.int32)
    n_step_return = np.empty(n, np.float32)
    discounts = np.empty(n, np.float32)
    row = np.empty(n, np.int64)
    bootstrap = np.empty(n, np.int64)
    key = np.empty(n, np.int64)
    versions = 0.0
    for i in range(n):
        slot = items[i] // length
        offset = items[i] - slot * length
        t = context + offset
        g, d, m = n_step_target(reward[slot], row_kind[slot], t, n_step, gamma)
        actions[i] = action[slot, t]
        n_step_return[i] = g
        discounts[i] = d
        row[i] = slot * rows + t
        bootstrap[i] = slot * rows + m
        key[i] = number[slot] * length + offset
        versions += version[slot]
    return actions, n_step_return, discounts, row, bootstrap, key, versions / n


@numba.njit(cache=True, nogil=True)
def _live_items(key, length, context, number, row_kind):  # type: ignore[no-untyped-def]
    n = key.shape[0]
    slots = number.shape[0]
    items = np.zeros(n, np.int64)
    live = np.zeros(n, np.bool_)
    for i in range(n):
        if key[i] < length:  # Block numbers start at 1; negative keys are nobody's.
            continue
        block = key[i] // length
        slot = block % slots
        offset = key[i] - block * length
        if number[slot] == block and row_kind[slot, context + offset] & _LAST == 0:
            items[i] = slot * length + offset
            live[i] = True
    return items, live
