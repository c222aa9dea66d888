"""`python -m deploy evaluate RUN_DIR`: how good is what a run learnt?"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from common import run_directory
from common.errors import ConfigError
from common.flags import JsonObject
from deploy.named_code import tell_named_code


@dataclass(kw_only=True)
class Evaluate:
    """Play greedy episodes (ε = 0) with a checkpoint of a run and print their returns."""

    run_dir: tyro.conf.Positional[Path]
    """Directory of the run."""
    checkpoint: str = "best"
    """best, latest, or the number of learner updates of a checkpoint that is there."""
    episodes: int = 100
    """Episodes to play."""
    seed: int = 1_000_000
    """Seeds the environments; other episodes than the run's own evaluations saw."""
    env_kwargs: JsonObject = field(default_factory=dict)
    """Keyword arguments for the environment, over the run's own."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one line of JSON."""
    debug: bool = False
    """Print a traceback with an error."""


def evaluate(argv: list[str]) -> int:
    options = tyro.cli(Evaluate, args=argv, prog="python -m deploy evaluate")
    if options.episodes < 1:
        raise ConfigError(f"--episodes {options.episodes}: must be at least 1")
    config = run_directory.stored_config(options.run_dir)
    tell_named_code(options.run_dir, config)
    config = config.model_copy(update={"env_kwargs": config.env_kwargs | options.env_kwargs})

    import numpy as np

    from actor.evaluation import GreedyEvaluation
    from deploy import checkpoint_policy

    loaded = checkpoint_policy.load(options.run_dir, config, options.checkpoint)
    evaluation = GreedyEvaluation(config, loaded.spec, options.episodes)
    try:
        returns, _ = evaluation.run(loaded.policy.q_values, options.seed)
    finally:
        evaluation.close()
    result = {
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "return_min": float(np.min(returns)),
        "return_max": float(np.max(returns)),
        "episodes": len(returns),
    }
    if options.as_json:
        print(json.dumps(result))
    else:
        print(
            f"{config.env}, {loaded.path.name}: return {result['return_mean']:.1f} "
            f"± {result['return_std']:.1f} (min {result['return_min']:.1f}, "
            f"max {result['return_max']:.1f}) over {result['episodes']} greedy episodes"
        )
    return 0
