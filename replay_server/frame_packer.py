"""The observations of a batch, on their way to a learner: compressed as they are read from the
storage."""

import numpy as np
import numpy.typing as npt

from common.block_columns import BlockColumns
from common.compression import METHODS, Array, pieces
from common.frame_deltas import most_bytes
from common.packing import joined, pack, pays
from common.part_threads import PART_BYTES, PartThreads
from common.transitions import copy_frames


class FramePacker:
    """Reads and compresses one part of a batch's frames in each thread, without the GIL.

    Args:
        method: of `common.compression.METHODS`, or none.
        threads: as `PartThreads.count`.
    """

    def __init__(self, columns: BlockColumns, method: str, threads: int | None = None) -> None:
        self._columns, self._method = columns, method
        obs = columns.obs_rows
        self._row_shape, self._row_bytes, self._dtype = obs.shape[1:], obs[0].nbytes, obs.dtype
        self._threads = PartThreads("compression", threads)
        self._buffers = np.empty((0, 0), np.uint8)
        """A row for each part, of the largest batch so far: to touch new memory would take as long
        as to fill it. What is never written to, most of it, takes no memory."""

    def pack(self, rows: npt.NDArray[np.int64]) -> Array:
        """The observations of rows [N, U], as they are to travel: [N, U, *obs_shape]."""
        if self._method not in METHODS or not pays(rows.size, self._row_bytes, self._dtype):
            return copy_frames(self._columns, rows)
        nbytes = rows.size * self._row_bytes
        cuts = pieces(len(rows), min(len(rows), -(-nbytes // PART_BYTES)))
        self._make_room(len(cuts), (cuts[0].stop - cuts[0].start) * rows.shape[1])
        parts = self._threads.map(self._pack, ((i, rows[cut]) for i, cut in enumerate(cuts)))
        packed = joined(parts, (*rows.shape, *self._row_shape), self._dtype, self._method)
        return copy_frames(self._columns, rows) if packed is None else packed

    def _make_room(self, parts: int, frames: int) -> None:
        """For so many frames in each part."""
        held, held_bytes = self._buffers.shape
        nbytes = most_bytes(frames, self._row_bytes)
        if held < parts or held_bytes < nbytes:
            self._buffers = np.empty((max(parts, held), max(nbytes, held_bytes)), np.uint8)

    def _pack(self, part: tuple[int, npt.NDArray[np.int64]]) -> bytes | memoryview:
        """The part of that number."""
        number, rows = part
        return pack(self._columns.obs_rows, rows, self._method, self._buffers[number])

    def close(self) -> None:
        self._threads.close()
