"""What a run has written about itself, for whoever draws it.

A run may still be going on, may have been killed in the middle of a line, or may be of an older
version: whatever can be read is given, and `notes` says what cannot.
"""

import json
import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from common import run_directory
from common.config import Config
from common.errors import ConfigError, RunDirectoryError
from common.run_directory import METRICS_FILE, RESULT_FILE

MAX_LINES = 5_000
"""Of a longer run every second, third, … line is kept: a day has 86,400."""

Line = dict[str, Any]
Point = tuple[float, float, float]
"""env_steps, wall_s and a value there."""


@dataclass(slots=True)
class History:
    """A run so far."""

    run_dir: Path
    config: Config | None
    """None: it cannot be read; `notes` says why."""
    lines: list[Line]
    """Of metrics.jsonl, in their order. What a killed run had done after the checkpoint that it was
    resumed from is left out, for it was done again."""
    result: dict[str, Any] | None
    """None: the run goes on, or was killed."""
    notes: list[str] = field(default_factory=list)
    """One line for each thing that is missing or could not be read."""

    @property
    def name(self) -> str:
        return self.run_dir.name

    @property
    def evaluations(self) -> list[Line]:
        """Each with env_steps, wall_s and return_mean, as a rule with updates, return_std and
        episodes, too; those that the result alone tells, for want of metrics.jsonl, among them."""
        told = (self.result or {}).get("evaluations")
        found = list(told) if isinstance(told, list) else []
        found += [line["evaluation"] for line in self.lines if "evaluation" in line]
        required = ("env_steps", "wall_s", "return_mean")
        once = {
            tuple(e[key] for key in required): e
            for e in found
            if isinstance(e, dict) and all(_is_number(e.get(key)) for key in required)
        }
        return [once[key] for key in sorted(once)]

    @property
    def best_evaluation(self) -> Line | None:
        """Of the weights that the learner keeps as its best: the newest of those with the highest
        score, of all or since the task was solved."""
        kept = [e for e in self.evaluations if not e.get("weights_lost")]
        since = max((i for i, e in enumerate(kept) if e.get("solved")), default=0)
        return max(reversed(kept[since:]), key=lambda e: float(e["return_mean"]), default=None)

    def column(self, name: str) -> list[Point]:
        """(env_steps, wall_s, value) of each line that has the value."""
        return [
            (line["env_steps"], line["wall_s"], float(line[name]))
            for line in self.lines
            if _is_number(line.get(name))
        ]

    def rates(self, name: str, window_s: float = 0.5) -> list[Point]:
        """(env_steps, wall_s, growth per second of wall time) of a counter, over stretches of at
        least `window_s`, each at its end; a shorter one only if there is no other.

        A counter that falls has begun at zero again with its process: it grew by what it shows.
        """
        points = self.column(name)
        found: list[Point] = []
        growth, elapsed_s = 0.0, 0.0
        for (_, before_s, before), (env_steps, wall_s, value) in pairwise(points):
            growth += value - before if value >= before else value
            elapsed_s += wall_s - before_s
            if elapsed_s >= window_s:
                found.append((env_steps, wall_s, growth / elapsed_s))
                growth, elapsed_s = 0.0, 0.0
        if not found and elapsed_s > 0.0:
            found.append((points[-1][0], points[-1][1], growth / elapsed_s))
        return found

    def training_returns(self, episodes: int) -> list[Point]:
        """(env_steps, wall_s, mean raw return) of each line with which training episodes came: over
        the newest `episodes` of the run, or all that came with the line if those are more."""
        lines = [line for line in self.lines if line.get("episode_returns")]
        came = np.array([len(line["episode_returns"]) for line in lines], np.int64)
        returns = [value for line in lines for value in line["episode_returns"]]
        sums = np.concatenate([[0.0], np.cumsum(returns, dtype=np.float64)])
        ends = np.cumsum(came)
        begins = np.maximum(ends - np.maximum(came, episodes), 0)
        means = (sums[ends] - sums[begins]) / (ends - begins)
        return [
            (line["env_steps"], line["wall_s"], mean)
            for line, mean in zip(lines, means.tolist(), strict=True)
        ]

    @property
    def episodes(self) -> int:
        """Training episodes that ended."""
        return sum(len(line.get("episode_returns", ())) for line in self.lines)


def read_history(run_dir: Path) -> History:
    """What there is of a run.

    Raises RunDirectoryError when the directory holds none.
    """
    if not run_dir.is_dir():
        raise RunDirectoryError(f"{run_dir} is no directory: a run's directory is expected")
    notes: list[str] = []
    config = None
    try:
        config = run_directory.stored_config(run_dir)
    except (ConfigError, RunDirectoryError) as error:
        notes.append(f"its configuration cannot be read: {error}")
    lines = _lines(run_dir / METRICS_FILE, notes)
    result = _result(run_dir / RESULT_FILE, notes)
    if config is None and not lines and result is None:
        raise RunDirectoryError(
            f"{run_dir} holds no run: none of {run_directory.CONFIG_FILE}, {METRICS_FILE} and "
            f"{RESULT_FILE} can be read there"
        )
    return History(run_dir, config, lines, result, notes)


def _lines(path: Path, notes: list[str]) -> list[Line]:
    if not path.exists():
        notes.append(f"no {path.name}: the run is of an older version, or has not begun")
        return []
    try:
        return _read_lines(path, notes)
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}")
        return []


def _read_lines(path: Path, notes: list[str]) -> list[Line]:
    with path.open("rb") as file:
        stride = max(math.ceil(sum(1 for _ in file) / MAX_LINES), 1)
    kept: list[Line] = []
    unread = repeated = passed_over = 0
    with path.open("rb") as file:
        for raw in file:
            line = _parsed(raw)
            if line is None:
                unread += bool(raw.strip())
                continue
            if kept and _goes_back(kept[-1], line):
                before = len(kept)
                while kept and (kept[-1]["wall_s"] > line["wall_s"] or _goes_back(kept[-1], line)):
                    kept.pop()
                repeated += before - len(kept)
            # The line before is passed over if this one can stand for both: counters go on, but its
            # episodes must not be lost.
            if kept and passed_over < stride - 1 and "evaluation" not in kept[-1]:
                _hand_over(kept.pop(), line)
                passed_over += 1
            else:
                passed_over = 0
            kept.append(line)
    if unread:
        what = "a line" if unread == 1 else f"{unread} lines"
        notes.append(f"{what} of {path.name} cannot be read: a killed run leaves one unfinished")
    if repeated:
        what = "a line" if repeated == 1 else f"{repeated} lines"
        notes.append(f"{what} of {path.name} left out: done again after the run was resumed")
    return kept


def _parsed(raw: bytes) -> Line | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):  # Undecodable bytes are a ValueError, too.
        return None
    if isinstance(line, dict) and all(_is_number(line.get(k)) for k in ("env_steps", "wall_s")):
        return line
    return None


def _goes_back(last: Line, line: Line) -> bool:
    """Whether the learner has counted from a checkpoint again in between. Wall time alone does not
    tell: clocks are set."""
    return bool(
        last["env_steps"] > line["env_steps"] or last.get("updates", 0) > line.get("updates", 0)
    )


def _hand_over(passed_over: Line, line: Line) -> None:
    for name in ("episode_returns", "episode_lengths"):
        if passed_over.get(name):
            line[name] = passed_over[name] + line.get(name, [])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _result(path: Path, notes: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        notes.append(f"no {path.name}: the run goes on, or was killed")
        return None
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}")
        return None
    except (ValueError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return None
    return found
