"""Networks of the user's own, by `module:function`: `tests.networks:normalised`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


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


def viewing(obs_shape: Sequence[int], num_actions: int) -> nn.Module:
    """Flattens with `view`, which goes with contiguous images alone."""
    return _Viewing(obs_shape[0], num_actions)


class _Viewing(nn.Module):
    """Stacks of 84×84 frames."""

    def __init__(self, channels: int, num_actions: int) -> None:
        super().__init__()
        self.torso = nn.Conv2d(channels, 16, 8, 4)
        self.head = nn.Linear(16 * 20 * 20, num_actions)

    def forward(self, obs: Tensor) -> Tensor:
        features = torch.relu(self.torso(obs.float() / 255))
        q_values: Tensor = self.head(features.view(features.size(0), -1))
        return q_values
