"""Which sub-environment is in which call, in memory that others can read.

Four numbers that are written around every call of an environment. A thread beside a loop that hangs
reads them, the process that started this one reads them once it is dead, and an actor reads those
of its environments' processes. They are written one after the other, without a lock: a reader may
see half of a change, which is as good as either half for a message.
"""

import time
from collections.abc import MutableSequence
from dataclasses import dataclass
from enum import IntEnum
from typing import cast

Cells = MutableSequence[float]
"""CELLS numbers: a memoryview of doubles."""

DOING, STEP, FIRST_SEED, SINCE_S = range(4)
"""What each cell holds: who is in which call (`doing`); that environment's steps since its process
began; the seed that the vector's first environment was last reset with, the others having the
numbers after it (-1: none yet); the monotonic clock when the vector's last call began."""
CELLS = 4
CELL_BYTES = 8
ALL = -1
UNKNOWN = -1
_CALLS = 8
"""More than there are in `Call`."""


class Call(IntEnum):
    """What an environment is asked to do."""

    NONE = 0
    MAKE = 1
    RESET = 2
    STEP = 3
    CLOSE = 4
    RENDER = 5

    @property
    def text(self) -> str:
        """For a message."""
        return f"in {self.name.lower()}" if self else "between two calls"


@dataclass(frozen=True, slots=True)
class Place:
    """A sub-environment at one moment."""

    index: int
    """Within its vector; ALL: nobody can tell."""
    seed: int = UNKNOWN
    step: int = 0
    """Steps since the process began."""
    episode_step: int = UNKNOWN

    def text(self, first_env_index: int | None = None) -> str:
        """For the end of a message; `first_env_index`: of the vector on the run's ε ladder."""
        if self.index == ALL:
            return f"one of its environments, step {self.step}"
        ladder = (
            "" if first_env_index is None else f", {first_env_index + self.index} on the ladder"
        )
        seed = "" if self.seed == UNKNOWN else f", seed {self.seed}"
        episode = "" if self.episode_step == UNKNOWN else f", {self.episode_step} of its episode"
        return f"environment {self.index}{ladder}{seed}, step {self.step}{episode}"


NOBODY = Place(ALL)


def cells_in(memory: object, row: int = 0) -> Cells:
    """The cells of one row of some memory, such as a multiprocessing RawArray."""
    size = CELLS * CELL_BYTES
    view = memoryview(memory).cast("B")[row * size : (row + 1) * size]  # type: ignore[arg-type]
    cells = cast(Cells, view.cast("d"))
    if not cells[DOING]:
        cells[FIRST_SEED] = UNKNOWN
    return cells


def own_cells() -> Cells:
    """Cells that nobody else sees."""
    return cells_in(bytearray(CELLS * CELL_BYTES))


_shared: list[Cells] = []


def share_cells(cells: Cells) -> None:
    """Have this process's environments write there, where the process that started it reads."""
    _shared[:] = [cells]


def process_cells() -> Cells:
    """Where this process's environments write; cells of their own if nobody looks."""
    return _shared[0] if _shared else own_cells()


def doing(call: Call, index: int = ALL) -> float:
    """For the cell DOING."""
    return (index + 1) * _CALLS + call


def begin(cells: Cells, call: Call, index: int = ALL) -> None:
    """Note that a call begins, and when."""
    cells[SINCE_S] = time.monotonic()
    cells[DOING] = doing(call, index)


def end(cells: Cells) -> None:
    """Note that it is over. Whose it was stays there."""
    cells[DOING] = cells[DOING] // _CALLS * _CALLS


def call_in(cells: Cells) -> Call:
    return Call(int(cells[DOING]) % _CALLS)


def place_in(cells: Cells) -> Place:
    index, first_seed = int(cells[DOING]) // _CALLS - 1, int(cells[FIRST_SEED])
    seed = UNKNOWN if first_seed == UNKNOWN else first_seed + index
    return Place(index, seed, int(cells[STEP]))
