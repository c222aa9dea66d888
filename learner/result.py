"""`result.json`: what a run came to, for people and scripts."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common.config import Config
from common.run_directory import RESULT_FILE, write_or_explain
from learner.checkpoint import RunState


def write_result(
    run_dir: Path,
    *,
    config: Config,
    state: RunState,
    reason: str,
    wall_s: float,
    part_s: float,
    part_env_steps: int,
    part_updates: int,
    samples_per_insert: float | None,
) -> None:
    """Write the result of a run.

    Args:
        state: its newest evaluation is the score.
        wall_s: from the start of the run's first process, all its parts together, in seconds.
        part_s, part_env_steps, part_updates: since this learner's part of the run began; the rates
            are theirs.
        samples_per_insert: as it came out; None: nothing was sampled.

    Raises RunDirectoryError when it cannot be written.
    """
    evaluation = state.evaluations[-1] if state.evaluations else {}
    result: dict[str, Any] = {
        "env": config.env,
        "seed": config.seed,
        "solved": state.solved,
        "reason": reason,
        "target": config.target_return,
        "eval_return_mean": evaluation.get("return_mean"),
        "eval_return_std": evaluation.get("return_std"),
        "eval_episodes": evaluation.get("episodes", 0),
        "best_return_mean": state.best_score,
        "wall_s": round(wall_s, 3),
        "env_steps": state.env_steps,
        "learner_updates": state.updates,
        "env_steps_per_s": part_env_steps / max(part_s, 1e-9),
        "updates_per_s": part_updates / max(part_s, 1e-9),
        "samples_per_insert": samples_per_insert,
        "evaluations": state.evaluations,
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "gymnasium", "zapex")},
        },
    }
    write_or_explain(run_dir / RESULT_FILE, json.dumps(result, indent=2) + "\n")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
