"""A run as the page sees it, made by hand."""

from pathlib import Path
from typing import Any

from common.config import Config
from deploy.dashboard.catalogue import Run, State
from deploy.dashboard.flows import Flows
from deploy.dashboard.observatory import View
from deploy.history import History

CONFIG = Config(
    actors=2,
    envs_per_actor=4,
    batch_size=100,
    publish_period=25,
    replay_capacity=6_400,
    block_length=64,
    min_size_to_sample=100,
    target_return=475.0,
    total_env_steps=1_000_000,
)


def view(
    name: str = "a",
    *,
    state: State = State.RUNNING,
    score: float | None = 123.4,
    lines: list[dict[str, Any]] | None = None,
    newest: dict[str, Any] | None = None,
    flows: Flows | None = None,
    status: dict[str, Any] | None = None,
    config: Config | None = CONFIG,
    env: str = "CartPole-v1",
) -> View:
    run_dir = Path("runs") / name
    run = Run(name, run_dir, state, env, score, 12_345, 67.0, 0.0, {"env": env}, None)
    return View(
        run=run,
        history=History(run_dir, config, lines or [], None, []),
        config=config,
        newest=newest or {},
        flows=flows or Flows(),
        status=status,
        answered=status is not None,
        video=None,
        notes=(),
    )
