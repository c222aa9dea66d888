"""The observations of a batch, on their way to a learner: gathered from the storage, compressed."""

import numpy as np
import numpy.typing as npt

from common.block_columns import BlockColumns
from common.compression import Array, joined, pack, pays, pieces
from common.part_threads import PART_BYTES, PartThreads
from common.transitions import copy_frames


class FramePacker:
    """Gathers and compresses one part of a batch's frames in each thread; both release the GIL.

    Args:
        method: of `common.compression.METHODS`, or none.
        threads: as `PartThreads.count`.
    """

    def __init__(self, columns: BlockColumns, method: str, threads: int | None = None) -> None:
        self._columns, self._method = columns, method
        obs = columns.obs_rows
        self._row_shape, self._row_bytes, self._dtype = obs.shape[1:], obs[0].nbytes, obs.dtype
        self._threads = PartThreads("compression", threads)

    def pack(self, rows: npt.NDArray[np.int64]) -> Array:
        """The observations of rows [N, U], as they are to travel: [N, U, *obs_shape]."""
        nbytes = rows.size * self._row_bytes
        if not pays(nbytes, self._dtype, self._method):
            return copy_frames(self._columns, rows)
        cuts = pieces(len(rows), min(len(rows), -(-nbytes // PART_BYTES)))
        parts = self._threads.map(self._pack, (rows[cut] for cut in cuts))
        packed = joined(parts, (*rows.shape, *self._row_shape), self._dtype, self._method)
        return copy_frames(self._columns, rows) if packed is None else packed

    def _pack(self, rows: npt.NDArray[np.int64]) -> bytes:
        return pack(copy_frames(self._columns, rows), self._method)

    def close(self) -> None:
        self._threads.close()
