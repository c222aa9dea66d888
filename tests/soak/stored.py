"""A storage file, read by someone who knows its format from its description alone.

Shares no code with what wrote it: header, then columns that begin with pages, in this order. It may
be read while it is written; what is below `oldest_number` afterwards may have given way meanwhile.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PAGE = 4096
NEXT_NUMBER = 2
"""Place among the counters."""


@dataclass(frozen=True, slots=True)
class StoredInsert:
    """Neighbouring blocks of one insert, in the order of their numbers."""

    number: int
    """Of the first."""
    session: int
    sequence: int
    columns: tuple[npt.NDArray[Any], ...]
    """obs, action, reward, row_kind; each [B, …]"""


class StoredBlocks:
    """The blocks of a storage file."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            header = file.read(PAGE).rstrip(b"\0")
        magic, _, description = header.partition(b"\n")
        assert magic == b"zapex replay 4", magic
        facts = json.loads(description)
        self.slots: int = facts["slots"]
        rows = facts["context"] + facts["length"] + facts["n_step"]
        spec = facts["spec"]
        step = np.dtype([("reward", "<f4"), ("action", "<i4"), ("row_kind", "u1"), ("", "V3")])
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "counters": ((8,), "<i8"),
            "number": ((self.slots,), "<i8"),
            "session": ((self.slots,), "<i8"),
            "sequence": ((self.slots,), "<i8"),
            "version": ((self.slots,), "<i8"),
            "checksum": ((self.slots,), "<u8"),
            "obs": ((self.slots, rows, *spec["obs_shape"]), spec["obs_dtype"]),
            "step": ((self.slots, rows), step),
        }
        begin = PAGE
        self._columns: dict[str, npt.NDArray[Any]] = {}
        for name, (shape, dtype) in shapes.items():
            self._columns[name] = np.memmap(path, dtype, "r", begin, shape)
            begin += -(-math.prod(shape) * np.dtype(dtype).itemsize // PAGE) * PAGE

    @property
    def next_number(self) -> int:
        """Blocks from this number on are not there yet."""
        return int(self._columns["counters"][NEXT_NUMBER])

    @property
    def oldest_number(self) -> int:
        """Blocks below this number have given way to others, or to an insert that is on its way."""
        number = self._columns["number"]
        oldest = self.next_number - self.slots
        end = self.next_number
        while 1 <= oldest < end and number[oldest % self.slots] != oldest:
            oldest += 1
        return max(oldest, 1)

    def missing(self, before: int) -> list[int]:
        """Numbers below `before`, of the newest that fit, whose slots hold something else."""
        numbers = np.arange(max(before - self.slots, 1), before)
        found = self._columns["number"][numbers % self.slots]
        return [int(n) for n in numbers[found != numbers]]

    def inserts(self, first: int, end: int) -> Iterator[StoredInsert]:
        """Those of the blocks numbered first … end − 1."""
        if first >= end:
            return
        slots = np.arange(first, end) % self.slots
        session, sequence = (self._columns[name][slots] for name in ("session", "sequence"))
        changes = (np.diff(session) != 0) | (np.diff(sequence) != 0)
        starts = [0, *(np.flatnonzero(changes) + 1).tolist(), len(slots)]
        for a, b in pairwise(starts):
            own = slots[a:b]
            step = self._columns["step"][own]
            columns = (
                self._columns["obs"][own],
                step["action"],
                step["reward"],
                step["row_kind"],
            )
            yield StoredInsert(first + a, int(session[a]), int(sequence[a]), columns)
