"""What a run has written about itself, for whoever draws it: metrics.jsonl, config.toml, result.json.

A run may still be going on, may have been killed in the middle of a line, or may be of an older
version: whatever can be read is given, and `notes` says what cannot.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import run_directory
from common.config import Config
from common.errors import ConfigError, RunDirectoryError

METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"

Line = dict[str, Any]


@dataclass(slots=True)
class History:
    """A run so far."""

    run_dir: Path
    config: Config | None
    """None: it cannot be read; `notes` says why."""
    lines: list[Line]
    """Of metrics.jsonl, in their order."""
    result: dict[str, Any] | None
    """None: the run goes on, or was killed."""
    notes: list[str] = field(default_factory=list)
    """One line for each thing that is missing or could not be read."""

    @property
    def name(self) -> str:
        return self.run_dir.name

    @property
    def evaluations(self) -> list[Line]:
        """Each with env_steps, wall_s, updates, return_mean, return_std and episodes; of a run
        without metrics.jsonl those that its result tells."""
        found = [line["evaluation"] for line in self.lines if line.get("evaluation")]
        if not found and self.result is not None:
            found = self.result.get("evaluations", [])
        return [e for e in found if "return_mean" in e and "env_steps" in e]

    def column(self, name: str) -> list[tuple[float, float, float]]:
        """(env_steps, wall_s, value) of each line that has the value."""
        return [
            (line["env_steps"], line["wall_s"], float(line[name]))
            for line in self.lines
            if isinstance(line.get(name), int | float)
        ]


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
        raise RunDirectoryError(f"{run_dir} holds no run: {notes[0]}")
    return History(run_dir, config, lines, result, notes)


def _lines(path: Path, notes: list[str]) -> list[Line]:
    if not path.exists():
        notes.append(f"no {path.name}: the run is of an older version, or has not begun")
        return []
    found, unread = [], 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            unread += 1
            continue
        if isinstance(line, dict) and {"env_steps", "wall_s"} <= line.keys():
            found.append(line)
        else:
            unread += 1
    if unread:
        notes.append(
            f"{unread} lines of {path.name} cannot be read: a killed run leaves one unfinished"
        )
    return found


def _result(path: Path, notes: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        notes.append(f"no {path.name}: the run goes on, or was killed")
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return None
    return found if isinstance(found, dict) else None
