"""Updates to try a learner with: networks of each kind, and batches of random experience."""

from typing import Any

import numpy as np
import torch

from common.config import Config
from common.networks import build_network
from common.spec import EnvSpec
from learner.update import QLearner, TrainBatch

EAGER: dict[str, Any] = {
    "autocast": "off",
    "memory_format": "contiguous",
    "fused_optimizer": False,
    "compile_update": False,
    "cuda_graph": False,
}
"""Every option of the update off: what each of them is compared with."""
SPECS = {
    "mlp": EnvSpec((4,), "<f4", 2),
    "minatar": EnvSpec((10, 10, 4), "|b1", 3),
    "nature": EnvSpec((84, 84), "|u1", 6),
}
"""What each network sees one of: CartPole, MinAtar's breakout, an Atari game's frame."""


def make_config(network: str, **changes: Any) -> Config:
    """Of a run with this network; Atari's stacks four frames."""
    stack = 4 if network == "nature" else 1
    return Config(network=network, frame_stack=stack, **changes)


def make_learner(config: Config, device: str = "cpu", seed: int = 0) -> QLearner:
    torch.manual_seed(seed)
    network = build_network(config, SPECS[config.network])
    return QLearner(network, config, torch.device(device))


def make_batch(config: Config, seed: int, device: str = "cpu") -> TrainBatch:
    """Rewards of both signs; a fifth of the episodes end within the n steps."""
    spec, n, rng = SPECS[config.network], config.batch_size, np.random.default_rng(seed)
    stack, n_step = config.frame_stack, config.n_step
    shape = (n, stack + min(n_step, stack), *spec.obs_shape)
    if spec.dtype == "<f4":
        frames = rng.normal(size=shape).astype(np.float32)
    else:
        frames = rng.integers(0, 256 if spec.dtype == "|u1" else 2, shape).astype(spec.dtype)
    ends = rng.random(n) < 0.2
    shift = np.where(ends, rng.integers(1, min(n_step, stack) + 1, n), min(n_step, stack))

    def tensor(array: Any, dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(array, dtype=dtype, device=device)

    return TrainBatch(
        frames=torch.from_numpy(frames).to(device),
        shift=tensor(shift, torch.int64),
        action=tensor(rng.integers(0, spec.num_actions, n), torch.int64),
        n_step_return=tensor(rng.normal(0, 2, n), torch.float32),
        discount=tensor(np.where(ends, 0.0, 0.97), torch.float32),
        weight=tensor(rng.uniform(0.1, 1.0, n), torch.float32),
        key=np.arange(n),
        table_size=n,
        inserted=n,
        sampled=n,
        mean_version=0.0,
        slot=0,
    )
