"""`metrics.jsonl` while it grows: reads what is new, keeps as many lines as a curve can show.

A run of days writes hundreds of megabytes. So a file that is long already is read in pieces from
all over it, and of what is kept every second line goes whenever there are too many.
"""

import json
from pathlib import Path
from typing import BinaryIO

from deploy.history import Line

MAX_LINES = 4_000
"""Kept of curves, and as many of evaluations."""
MAX_READ_BYTES = 32 << 20
"""Of a file that is there already; from a longer one pieces are read, this much together."""
PIECES = 256
RECENT = 16
"""Newest lines kept whole, for rates: one comes each second."""
BACK_S = 5.0
"""Within this time the members of a head that was started again are back, each with all that it had
counted before: that is no growth."""
CURVES = ("learner_loss", "learner_mean_q", "head_training_return", "learner_score")
"""What is kept of older lines, beside their place and their evaluations."""


class Following:
    """`read` again and again; then `lines`, thinned, and the `recent` ones, whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.recent: list[Line] = []
        """The newest, at most `RECENT`."""
        self.known: Line = {}
        """The newest value of everything: what its members tell ends before a run does."""
        self.first: Line | None = None
        """Of the newest part of a run that was resumed, once its members are back: from there on
        its counters only grow. With the first value of whatever is told later."""
        self.unreadable = 0
        """Lines that are none; a killed run leaves one unfinished."""
        self.skipped = False
        """The file is so long that only pieces of it were read."""
        self._curves: list[Line] = []
        self._evaluations: list[Line] = []
        self._offset = self._seen = 0
        self._stride = 1
        self._resumed_s = float("-inf")

    @property
    def lines(self) -> list[Line]:
        """Of the whole file, in its order, each with `CURVES` or with an evaluation."""
        return sorted([*self._curves, *self._evaluations], key=lambda line: line["wall_s"])

    def read(self) -> None:
        """Take in what was written since the last call."""
        try:
            size = self._path.stat().st_size
        except OSError:
            size = 0
        if size < self._offset:
            # Another run in the same place.
            self._begin_anew()
        if size == self._offset:
            return
        with self._path.open("rb") as file:
            for begin, end in pieces(self._offset, size):
                file.seek(begin)
                if begin != self._offset:
                    self.skipped = True
                    # Somewhere within a line.
                    file.readline()
                self._take(file, end)

    def _take(self, file: BinaryIO, end: int) -> None:
        while file.tell() < end:
            row = file.readline()
            if not row.endswith(b"\n"):
                # Still being written.
                return
            self._offset = file.tell()
            try:
                line = json.loads(row)
            except ValueError:
                line = None
            line = _numbers(line) if isinstance(line, dict) else {}
            if {"env_steps", "wall_s"} <= line.keys():
                self._keep(line)
            else:
                self.unreadable += 1

    def _keep(self, line: Line) -> None:
        place = {"env_steps": line["env_steps"], "wall_s": line["wall_s"]}
        if self.first is not None and _began_anew(self.recent[-1], line):
            self._resumed_s = line["wall_s"]
        if self.first is None or line["wall_s"] - self._resumed_s < BACK_S:
            self.first, self.recent = line, []
        self.first = line | self.first
        self.known |= line
        self.recent = [*self.recent[1 - RECENT :], line]
        if line.get("evaluation"):
            self._evaluations.append(place | {"evaluation": line["evaluation"]})
            if len(self._evaluations) > MAX_LINES:
                del self._evaluations[1::2]
        if self._seen % self._stride == 0:
            self._curves.append(place | {name: line[name] for name in CURVES if name in line})
            if len(self._curves) > MAX_LINES:
                del self._curves[1::2]
                self._stride *= 2
        self._seen += 1


def _numbers(line: Line) -> Line:
    """What of a line can be drawn: another version may have written other things."""
    return {
        name: value
        for name, value in line.items()
        if isinstance(value, dict if name == "evaluation" else int | float)
    }


def _began_anew(before: Line, after: Line) -> bool:
    """Whether the head was started again between two lines."""
    name = "learner_waited_seconds_total"
    return bool(after.get(name, 0.0) < before.get(name, 0.0))


def pieces(offset: int, size: int) -> list[tuple[int, int]]:
    """Which stretches of a file to read, in bytes: all that is new, or evenly spaced ones of it."""
    new = size - offset
    if new <= MAX_READ_BYTES:
        return [(offset, size)]
    # The first begins where the new part does, the last ends where it does.
    length = MAX_READ_BYTES // PIECES
    begins = [offset + i * (new - length) // (PIECES - 1) for i in range(PIECES)]
    return [(begin, begin + length) for begin in begins]
