"""A batch's frames out of the mapped storage: large ones past the caches and by several threads."""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.block_columns import BlockColumns
from common.compression import pieces
from common.part_threads import PART_BYTES, PartThreads
from common.transitions import copy_frames
from learner.streamed_copy import can_stream, stream_rows


class Gatherer:
    """For one thread at a time. `threads`: as `PartThreads.count`."""

    def __init__(self, columns: BlockColumns, threads: int | None = None) -> None:
        self._columns = columns
        self._threads = PartThreads("gather", threads)
        self._row_bytes = columns.obs_rows[:1].nbytes

    def copy(self, rows: npt.NDArray[np.int64], out: npt.NDArray[Any]) -> None:
        """The observations of rows [N, U] into `out`, [N, U, *obs_shape]."""
        parts = rows.size * self._row_bytes // PART_BYTES
        copy = self._copy
        if parts >= 2 and can_stream(self._columns.obs_rows, out):
            copy = self._stream
        parts = min(self._threads.count, parts)
        if parts < 2:
            copy(rows, out)
        else:
            self._threads.map(lambda cut: copy(rows[cut], out[cut]), pieces(len(rows), parts))

    def _copy(self, rows: npt.NDArray[np.int64], out: npt.NDArray[Any]) -> None:
        copy_frames(self._columns, rows, out=out)

    def _stream(self, rows: npt.NDArray[np.int64], out: npt.NDArray[Any]) -> None:
        obs_rows = self._columns.obs_rows
        stream_rows(obs_rows, rows.ravel(), out.reshape(-1, *obs_rows.shape[1:]))

    def close(self) -> None:
        """End its threads."""
        self._threads.close()
