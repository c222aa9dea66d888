"""Run directories as a run would have written them, for tests of those who read them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import Config, write_toml

Line = dict[str, Any]


def line(wall_s: float, env_steps: int, updates: int | None = None, **values: Any) -> Line:
    """Of metrics.jsonl; unless said otherwise with an update for ten steps."""
    return {
        "time": 1e9 + wall_s,
        "wall_s": wall_s,
        "env_steps": env_steps,
        "updates": env_steps // 10 if updates is None else updates,
        **values,
    }


def evaluation(
    wall_s: float, env_steps: int, return_mean: float, return_std: float = 0.0, episodes: int = 20
) -> Line:
    return {
        "env_steps": env_steps,
        "updates": env_steps // 10,
        "wall_s": wall_s,
        "return_mean": return_mean,
        "return_std": return_std,
        "episodes": episodes,
    }


def evaluated(wall_s: float, env_steps: int, return_mean: float, **values: Any) -> Line:
    """A line with an evaluation of the same moment."""
    return line(wall_s, env_steps, evaluation=evaluation(wall_s, env_steps, return_mean, **values))


def write_run(
    run_dir: Path,
    *,
    config: Config | None = None,
    lines: Sequence[Line] | None = None,
    result: dict[str, Any] | None = None,
) -> Path:
    """A run directory with these parts alone; returns it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if config is not None:
        write_toml(config, run_dir / "config.toml")
    if lines is not None:
        text = "".join(json.dumps(one) + "\n" for one in lines)
        (run_dir / "metrics.jsonl").write_text(text)
    if result is not None:
        (run_dir / "result.json").write_text(json.dumps(result))
    return run_dir
