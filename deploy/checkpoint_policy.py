"""A run's checkpoint as something that plays."""

from dataclasses import dataclass
from pathlib import Path

import torch

from actor.policy import Policy
from common.config import Config
from common.errors import CheckpointError, WireError
from common.manifest import Manifest
from common.messages import Weights
from common.spec import EnvSpec
from learner.checkpoint import checkpoints, load_weights_file


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """The weights of one checkpoint, and the environment they were made for."""

    path: Path
    policy: Policy
    spec: EnvSpec


def load(run_dir: Path, config: Config, name: str) -> CheckpointPolicy:
    """The run's checkpoint of that name: best, latest, or a number of learner updates.

    Raises CheckpointError, with those that there are, when it is missing; or when it is damaged or
    belongs to another network than `config` describes.
    """
    path = _path(run_dir / "checkpoints", name)
    torch.set_num_threads(1)
    tensors, facts = load_weights_file(path)
    manifest = Manifest(run_dir.name, config, EnvSpec.from_plain(facts["spec"]))
    policy = Policy(manifest)
    try:
        policy.load(Weights(0, 0, {name: tensor.numpy() for name, tensor in tensors.items()}))
    except WireError as error:
        raise CheckpointError(f"{path} does not fit the run's config.toml: {error}") from error
    return CheckpointPolicy(path, policy, manifest.spec)


def _path(directory: Path, name: str) -> Path:
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
