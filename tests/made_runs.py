"""Run directories as finished runs leave them, made without training."""

import json
import math
import os
from pathlib import Path
from typing import Any

from common.config import Config, write_toml
from common.metric_table import METRICS
from common.metrics import Kind

OF_THE_HEAD = ("learner_", "head_")
"""Metrics of the process that writes the lines."""


def make_finished_run(
    run_dir: Path, seed: int, *, seconds: int = 600, ended_s: float = 1e9
) -> Path:
    """A CartPole run that learnt something: a line of every metric for each second.

    Args:
        ended_s: when its last file was written, as time.time().
    """
    config = Config(seed=seed, actors=2, envs_per_actor=8, learning_rate=1e-3 / (1 + seed % 3))
    run_dir.mkdir(parents=True)
    write_toml(config, run_dir / "config.toml")
    lines = [_line(i, seed, seconds) for i in range(1, seconds + 1)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run_dir / "result.json").write_text(json.dumps(_result(lines, config)))
    (run_dir / "status.json").write_text(json.dumps(_status(run_dir.name, config)))
    for path in run_dir.iterdir():
        os.utime(path, (ended_s, ended_s))
    return run_dir


def _line(i: int, seed: int, seconds: int) -> dict[str, Any]:
    learnt = 1.0 / (1.0 + math.exp(6.0 - 12.0 * i / seconds))
    values = {
        name: round(100.0 * i + seed, 3) if metric.kind is Kind.COUNTER else 0.5 + 0.1 * (i % 7)
        for name, metric in METRICS.items()
        if metric.kind is not Kind.HISTOGRAM
    }
    line: dict[str, Any] = {
        "time": 1e9 + i, "wall_s": float(i), "env_steps": 800 * i, "updates": 50 * i,
        **values,
        "actor_blocked_seconds_total": 0.6 * i, "learner_waited_seconds_total": 0.02 * i,
        "replay_inserted_transitions_total": 790 * i,
        "replay_sampled_transitions_total": 25_600 * i,
        "replay_priorities_total": 25_500 * i, "replay_transitions": min(790 * i, 1_000_000),
        "learner_loss": 0.02 + 0.3 * (1.1 - learnt) * (1 + 0.3 * math.sin(i)),
        "learner_mean_q": 90 * learnt, "head_actors": 2.0,
        "head_training_return": 20 + 300 * learnt, "learner_score": 20 + 460 * learnt,
        "learner_best_score": 20 + 460 * learnt,
    }  # fmt: skip
    if i % 20 == 0:
        line["evaluation"] = {
            "env_steps": 800 * i, "wall_s": float(i), "updates": 50 * i, "episodes": 20,
            "return_mean": 20 + 460 * learnt + 12 * math.sin(seed + i),
            "return_std": 60 * learnt * (1.05 - learnt) * 4,
        }  # fmt: skip
    if i in (1, seconds):
        # Nobody has joined yet, or all have left: then only what they counted is still known.
        line["head_actors"] = 0.0
        unknown = {n for n, metric in METRICS.items() if i == 1 or metric.kind is Kind.GAUGE}
        return {n: v for n, v in line.items() if n not in unknown or n.startswith(OF_THE_HEAD)}
    return line


def _result(lines: list[dict[str, Any]], config: Config) -> dict[str, Any]:
    last, evaluations = lines[-1], [x["evaluation"] for x in lines if "evaluation" in x]
    newest = evaluations[-1] if evaluations else {}
    return {
        "env": config.env, "seed": config.seed, "solved": False, "reason": "budget",
        "eval_return_mean": newest.get("return_mean"), "env_steps": last["env_steps"],
        "learner_updates": last["updates"], "wall_s": last["wall_s"], "evaluations": evaluations,
    }  # fmt: skip


def _status(run_id: str, config: Config) -> dict[str, Any]:
    bell = [math.exp(-((i - 5) ** 2) / 4) * 1000 for i in range(10)]
    members = [
        {
            "role": "actor", "number": n, "host": "box", "pid": n, "num_envs": 8, "values": {},
            "first_env_index": 8 * n,
            "returns": {str(e): 30.0 + 20 * (8 * n + e) for e in range(8)},
        }
        for n in range(config.actors)
    ]  # fmt: skip
    members += [{"role": role, "number": 0, "host": "box", "pid": 9, "num_envs": 0, "values": {}}
                for role in ("replay_server", "evaluator")]  # fmt: skip
    histograms = {
        "replay_new_priority": [*bell, 99.0],
        "replay_sampled_age": [*(1000.0 / (1 + i) for i in range(10)), 500.0],
    }
    return {"run_id": run_id, "learner": {"phase": "done"}, "members": members,
            "histograms": histograms}  # fmt: skip
