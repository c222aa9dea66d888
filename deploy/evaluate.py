"""`python -m deploy evaluate RUN_DIR`: how good is what a run learnt?"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common import run_directory
from common.errors import CheckpointError, ConfigError
from common.manifest import Manifest
from common.spec import EnvSpec


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
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one line of JSON."""
    debug: bool = False
    """Print a traceback with an error."""


def evaluate(argv: list[str]) -> int:
    options = tyro.cli(Evaluate, args=argv, prog="python -m deploy evaluate")
    if options.episodes < 1:
        raise ConfigError(f"--episodes {options.episodes}: must be at least 1")
    config = run_directory.stored_config(options.run_dir)
    path = _checkpoint(options.run_dir / "checkpoints", options.checkpoint)

    import numpy as np
    import torch

    from actor.evaluation import GreedyEvaluation
    from actor.policy import Policy
    from common.messages import Weights
    from learner.checkpoint import load_weights_file

    torch.set_num_threads(1)
    tensors, facts = load_weights_file(path)
    manifest = Manifest(options.run_dir.name, config, EnvSpec.from_plain(facts["spec"]))
    policy = Policy(manifest)
    policy.load(Weights(0, 0, {name: tensor.numpy() for name, tensor in tensors.items()}))
    evaluation = GreedyEvaluation(config, manifest.spec, options.episodes)
    try:
        returns, _ = evaluation.run(policy.q_values, options.seed)
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
            f"{config.env}, {path.name}: return {result['return_mean']:.1f} "
            f"± {result['return_std']:.1f} (min {result['return_min']:.1f}, "
            f"max {result['return_max']:.1f}) over {result['episodes']} greedy episodes"
        )
    return 0


def _checkpoint(directory: Path, name: str) -> Path:
    from learner.checkpoint import checkpoints

    numbered = checkpoints(directory)
    if name == "latest" and numbered:
        return numbered[-1]
    path = directory / (f"{int(name):08d}.safetensors" if name.isdigit() else f"{name}.safetensors")
    if path.exists():
        return path
    there = [str(int(p.stem)) for p in numbered]
    there += ["best"] if (directory / "best.safetensors").exists() else []
    raise CheckpointError(
        f"no checkpoint {name!r} in {directory}; "
        + (f"there are {', '.join(there)}" if there else "the run has not written any yet")
    )
