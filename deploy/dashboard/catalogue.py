"""The runs of a directory: what a list says about each, cheaply.

Of a run only config.toml, result.json and the end of metrics.jsonl are read, and again only when
they have changed.
"""

import json
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from common.run_directory import CONFIG_FILE, METRICS_FILE, RESULT_FILE, last_line

SILENCE_S = 15.0
"""A run that goes on has written within this time."""

Content = TypeVar("Content")
Stamp = tuple[int, int]


class State(StrEnum):
    RUNNING = "running"
    SOLVED = "solved"
    FINISHED = "finished"
    STOPPED = "stopped"
    KILLED = "killed"


_OF_REASON = {"target": State.SOLVED, "budget": State.FINISHED, "stopped": State.STOPPED}


@dataclass(frozen=True, slots=True)
class Run:
    """A row of the list."""

    name: str
    run_dir: Path
    state: State
    env: str
    score: float | None
    """Mean greedy return of the newest evaluation."""
    env_steps: int | None
    wall_s: float | None
    changed_s: float
    """When it wrote last, as time.time()."""
    settings: dict[str, Any]
    """config.toml as it stands there, whatever version of zapex wrote it."""
    result: dict[str, Any] | None
    notes: tuple[str, ...] = ()
    """One line for each thing that could not be read."""


@dataclass(slots=True)
class _Kept:
    stamp: Stamp
    content: Any


@dataclass(slots=True)
class Catalogue:
    """All runs below a directory (or the one that it is itself), by `runs`."""

    runs_dir: Path
    now_s: Callable[[], float] = time.time
    notes: list[str] = field(default_factory=list)
    """One line for what keeps the list from being whole."""
    _kept: dict[Path, _Kept] = field(default_factory=dict)

    def runs(self) -> list[Run]:
        """Newest first."""
        self.notes = []
        found = []
        self._kept = {path: kept for path, kept in self._kept.items() if path.parent.is_dir()}
        try:
            below = [p for p in self.runs_dir.iterdir() if not p.name.startswith(".")]
        except OSError as error:
            self.notes.append(f"{self.runs_dir} cannot be read: {error.strerror}")
            below = []
        for directory in [self.runs_dir, *below]:
            run = self._run(directory)
            if run is not None:
                found.append(run)
        if not found and not self.notes:
            self.notes.append(
                f"{self.runs_dir} holds no run yet; start one: python -m deploy launch --run-dir "
                f"{self.runs_dir / 'NAME'}"
            )
        return sorted(found, key=lambda run: run.changed_s, reverse=True)

    def _run(self, directory: Path) -> Run | None:
        stamps = {
            name: _stamp(directory / name) for name in (CONFIG_FILE, METRICS_FILE, RESULT_FILE)
        }
        if not any(stamps.values()):
            return None
        notes: list[str] = []
        settings = self._read(directory / CONFIG_FILE, stamps[CONFIG_FILE], _toml, notes) or {}
        result = self._read(directory / RESULT_FILE, stamps[RESULT_FILE], _json, notes)
        last = self._read(directory / METRICS_FILE, stamps[METRICS_FILE], last_line, notes) or {}
        if stamps[METRICS_FILE] is None:
            notes.append(f"no {METRICS_FILE}: the run is of an older version, or has not begun")
        written_s = _seconds(stamps[METRICS_FILE] or stamps[CONFIG_FILE])
        ended_s = _seconds(stamps[RESULT_FILE])
        state = _state(result, ended_s, written_s, self.now_s())
        # A resumed run has the result of its part before.
        source = result if result is not None and state in _OF_REASON.values() else last
        score = source.get("eval_return_mean", source.get("learner_score"))
        return Run(
            name=directory.name or str(directory.resolve().name),
            run_dir=directory,
            state=state,
            env=str(settings.get("env") or (result or {}).get("env") or "?"),
            score=_number(score),
            env_steps=_integer(source.get("env_steps")),
            wall_s=_number(source.get("wall_s")),
            changed_s=max(ended_s, written_s),
            settings=settings,
            result=result,
            notes=tuple(notes),
        )

    def _read(
        self,
        path: Path,
        stamp: Stamp | None,
        read: Callable[[Path], Content],
        notes: list[str],
    ) -> Content | None:
        """A file's content, from before if it did not change; None and a note if it cannot be
        read."""
        if stamp is None:
            return None
        kept = self._kept.get(path)
        if kept is None or kept.stamp != stamp:
            try:
                kept = _Kept(stamp, read(path))
            except (OSError, ValueError) as error:
                kept = _Kept(stamp, error)
            self._kept[path] = kept
        if isinstance(kept.content, Exception):
            notes.append(f"{path.name} cannot be read: {' '.join(str(kept.content).split())}")
            return None
        content: Content = kept.content
        return content


def _state(result: dict[str, Any] | None, ended_s: float, written_s: float, now_s: float) -> State:
    """What became of a run.

    Args:
        ended_s, written_s: when result.json and metrics.jsonl were written last, 0 for never. The
            last second's metrics are written after the result: only what comes `SILENCE_S` later
            is of a run that was resumed.
    """
    if result is not None and written_s <= ended_s + SILENCE_S:
        return _OF_REASON.get(str(result.get("reason")), State.FINISHED)
    # A clock that was put back makes what was written before seem to be of the future.
    return State.RUNNING if abs(now_s - written_s) <= SILENCE_S else State.KILLED


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _seconds(stamp: Stamp | None) -> float:
    return 0.0 if stamp is None else stamp[0] / 1e9


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it holds no object")
    return found


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _integer(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) else None
