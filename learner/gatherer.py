"""A batch's frames out of the mapped storage, copied by several threads if there are many."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from common.block_columns import BlockColumns
from common.compression import pieces
from common.transitions import copy_frames

MAX_THREADS = 4
"""With these most machines' memory has no more to give."""
PART_BYTES = 4 << 20
"""What is worth another thread: half a millisecond of copying, and handing it over takes 0.05."""


class Gatherer:
    """For one thread at a time.

    Args:
        threads: by default as many as this process may use cores, up to `MAX_THREADS`.
    """

    def __init__(self, columns: BlockColumns, threads: int | None = None) -> None:
        self._columns = columns
        self._threads = threads or min(MAX_THREADS, len(os.sched_getaffinity(0)))
        self._row_bytes = columns.obs_rows[:1].nbytes
        self._pool: ThreadPoolExecutor | None = None

    def copy(self, rows: npt.NDArray[np.int64], out: npt.NDArray[Any]) -> None:
        """The observations of rows [N, U] into `out`, [N, U, *obs_shape]."""
        parts = min(self._threads, rows.size * self._row_bytes // PART_BYTES)
        if parts < 2:
            copy_frames(self._columns, rows, out=out)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads - 1, "gather")
        first, *others = pieces(len(rows), parts)
        copied = [
            self._pool.submit(copy_frames, self._columns, rows[cut], out[cut]) for cut in others
        ]
        copy_frames(self._columns, rows[first], out=out[first])
        for copy in copied:
            copy.result()

    def close(self) -> None:
        """End its threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
