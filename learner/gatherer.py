"""A batch's frames out of the mapped storage, copied by several threads if there are many."""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.block_columns import BlockColumns
from common.compression import pieces
from common.part_threads import PART_BYTES, PartThreads
from common.transitions import copy_frames


class Gatherer:
    """For one thread at a time. `threads`: as `PartThreads.count`."""

    def __init__(self, columns: BlockColumns, threads: int | None = None) -> None:
        self._columns = columns
        self._threads = PartThreads("gather", threads)
        self._row_bytes = columns.obs_rows[:1].nbytes

    def copy(self, rows: npt.NDArray[np.int64], out: npt.NDArray[Any]) -> None:
        """The observations of rows [N, U] into `out`, [N, U, *obs_shape]."""
        parts = min(self._threads.count, rows.size * self._row_bytes // PART_BYTES)
        if parts < 2:
            copy_frames(self._columns, rows, out=out)
        else:
            self._threads.map(
                lambda cut: copy_frames(self._columns, rows[cut], out=out[cut]),
                pieces(len(rows), parts),
            )

    def close(self) -> None:
        """End its threads."""
        self._threads.close()
