"""Q-networks: observations in, one value per action out.

Actors, evaluator and learner all build the same module from the manifest.
"""

import importlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common.config import Config
from common.errors import ConfigError
from common.spec import EnvSpec


def dueling_q(value: Tensor, advantage: Tensor) -> Tensor:
    """Q(s, a) = V(s) + A(s, a) − mean_a' A(s, a') (Wang et al. 2016, eq. 9).

    value [N, 1], advantage [N, A] → [N, A].
    """
    return value + advantage - advantage.mean(dim=1, keepdim=True)


class MLPQNetwork(nn.Module):
    """Hidden layers with ReLU over the flattened observation, then dueling heads or a plain one.

    Observations of any numeric dtype, [N, *obs_shape], are taken as float32.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_actions: int,
        hidden_sizes: Sequence[int] = (128, 128),
        dueling: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = math.prod(obs_shape)
        for size in hidden_sizes:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        self.torso = nn.Sequential(*layers)
        self.dueling = dueling
        # One layer computes both heads: column 0 is V, the others A. Fewer, larger operations.
        self.head = nn.Linear(width, num_actions + dueling)

    def forward(self, obs: Tensor) -> Tensor:
        out: Tensor = self.head(self.torso(obs.float().reshape(len(obs), -1)))
        return dueling_q(out[:, :1], out[:, 1:]) if self.dueling else out


def build_network(config: Config, spec: EnvSpec) -> nn.Module:
    """The network that `config.network` names.

    Raises ConfigError when it cannot be loaded, is no torch module, or its output is not
    [N, num_actions].
    """
    if config.network == "mlp":
        return MLPQNetwork(spec.obs_shape, spec.num_actions, config.hidden_sizes, config.dueling)
    module_name, _, function_name = config.network.partition(":")
    where = f"network = {config.network!r}"
    if not function_name:
        raise ConfigError(f"{where}: expected mlp or module:function")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        network = function(spec.obs_shape, spec.num_actions)
    except Exception as error:
        raise ConfigError(f"{where} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{where} gave a {type(network).__name__}, expected a torch.nn.Module")
    probe = torch.from_numpy(np.zeros((2, *spec.obs_shape), spec.dtype))
    try:
        with torch.no_grad():
            values = network(probe)
    except Exception as error:
        raise ConfigError(
            f"{where} raises for observations {tuple(probe.shape)} of {probe.dtype}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(values, Tensor):
        raise ConfigError(f"{where} gives a {type(values).__name__}, expected a tensor")
    shape = tuple(values.shape)
    if shape != (2, spec.num_actions):
        raise ConfigError(
            f"{where} maps 2 observations to {shape}, expected (2, {spec.num_actions})"
        )
    return network
