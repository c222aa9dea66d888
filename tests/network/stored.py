"""What a replay server has stored, read from its file while it goes on writing, or after.

The oracle knows nothing of sequence numbers or acknowledgements: observations are numbered by the
environments that made them. Each stream's blocks must begin at 0, L, 2L, … (a block's tail is in
the next block too), none twice and none left out. An actor numbers its inserts and the server
stores them in that order, so a gap is an insert that was lost.
"""

import mmap
from collections import defaultdict
from pathlib import Path

import numpy as np

from common.block_columns import INSERTED, BlockColumns
from common.blocks import BlockLayout, RowKind
from common.config import Config
from common.spec import EnvSpec
from tests.network.environments import LABEL


class Stored:
    """A storage file; read-only.

    Args:
        shape: of an observation of `Numbered`.
    """

    def __init__(self, path: Path, config: Config, shape: tuple[int, ...]) -> None:
        layout = BlockLayout(config.block_length, config.n_step)
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        spec = EnvSpec(tuple(shape), "|u1", 2)
        self._columns = BlockColumns(spec, layout, config.replay_slots, mapped)
        self._length = config.block_length

    @property
    def counted(self) -> int:
        """Transitions that the server says were inserted: the run's environment steps."""
        return int(self._columns.counters[INSERTED])

    def starts(self) -> dict[tuple[int, int], list[int]]:
        """By (process, environment): the number of the first observation of each block."""
        columns = self._columns
        # A copy: the server goes on writing.
        filled = np.flatnonzero(columns.number.copy())
        firsts = columns.obs[:, 0].reshape(columns.slots, -1)[filled, : LABEL.size]
        found = defaultdict(list)
        for process, environment, number in firsts.copy().view("<u4").tolist():
            found[process, environment].append(number)
        return found

    def by_process(self) -> dict[int, int]:
        """Rows stored so far, by the process that made them."""
        rows: dict[int, int] = defaultdict(int)
        for (process, _), starts in self.starts().items():
            rows[process] += len(starts) * self._length
        return rows

    def lost(self) -> int:
        """Blocks that are missing before a later one of their stream."""
        return sum(
            max(numbers) // self._length + 1 - len(set(numbers))
            for numbers in self.starts().values()
        )

    def doubled(self) -> int:
        """Blocks that are there more than once, and transitions that were counted but are not
        there, or the other way."""
        twice = sum(len(numbers) - len(set(numbers)) for numbers in self.starts().values())
        return twice + abs(self.counted - self._transitions())

    def _transitions(self) -> int:
        slots = np.flatnonzero(self._columns.number)
        kinds = self._columns.row_kind[slots, : self._length]
        return int(np.count_nonzero(kinds & RowKind.LAST == 0))
