"""The optimisers of the configuration."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from common.config import Config


def rmsprop_epsilon_outside(epsilon_inside: float) -> float:
    """ε for g / (√v + ε), PyTorch's form, from ε' of g / √(v + ε'), the form of the paper.

    Both divide by the same amount where it matters, as v → 0, when ε = √ε': 1.5e-7 becomes 3.9e-4.
    """
    return math.sqrt(epsilon_inside)


def build_optimizer(
    config: Config, parameters: Iterable[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """Adam, or RMSProp centred on the gradient's mean (Graves 2013, eq. 38–40)."""
    if config.optimizer == "adam":
        return torch.optim.Adam(
            parameters,
            lr=config.learning_rate,
            eps=config.adam_epsilon,
            fused=device.type in ("cpu", "cuda", "mps"),
        )
    return torch.optim.RMSprop(
        parameters,
        lr=config.learning_rate,
        alpha=config.rmsprop_decay,
        eps=rmsprop_epsilon_outside(config.rmsprop_epsilon),
        centered=True,
        foreach=True,
    )
