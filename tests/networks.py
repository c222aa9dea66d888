"""Networks of the user's own, by `module:function`: `tests.networks:normalised`."""

import math
from collections.abc import Sequence

import torch
from torch import nn


def normalised(obs_shape: Sequence[int], num_actions: int) -> nn.Module:
    """Its BatchNorm has running averages, and an int64 that counts batches."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(obs_shape), 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, num_actions),
    )


def masked(obs_shape: Sequence[int], num_actions: int) -> nn.Module:
    """Has a buffer that is not finite, which no weights may be."""
    network = normalised(obs_shape, num_actions)
    network.register_buffer("mask", torch.full((2,), -math.inf))
    return network
