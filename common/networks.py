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


def in_float32(layer: nn.Module, features: Tensor) -> Tensor:
    """What the layer makes of the features in float32, under autocast too.

    Q-values come out of such layers: bfloat16's 8 bits would round a value of 20 to the next 1/8,
    and with it every δ.
    """
    device_type = features.device.type
    if torch.is_autocast_enabled(device_type):
        with torch.autocast(device_type, enabled=False):
            out: Tensor = layer(features.float())
    else:
        out = layer(features)
    return out


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
        out = in_float32(self.head, self.torso(obs.float().reshape(len(obs), -1)))
        return dueling_q(out[:, :1], out[:, 1:]) if self.dueling else out


class ConvQNetwork(nn.Module):
    """Convolutions with ReLU over images, a hidden layer, then dueling heads or a plain one.

    Observations are [N, H, W] (grey), [N, H, W, C], or stacks of S of either, [N, S, H, W] and
    [N, S, H, W, C]; stack and colours become channels. uint8 is scaled to [0, 1], other dtypes
    are taken as float32.

    Args:
        image_shape: as above, without N.
        stacked: whether the first axis is a stack.
        convolutions: (channels, kernel, stride) of each.
        hidden_size: units of the hidden layer.
        own_hidden: whether each dueling head has a hidden layer of its own (Wang et al. 2016,
            section 4.2), or both read the same.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        stacked: bool,
        num_actions: int,
        convolutions: Sequence[tuple[int, int, int]],
        hidden_size: int,
        dueling: bool = True,
        own_hidden: bool = True,
    ) -> None:
        super().__init__()
        self._image_axes = len(image_shape) - stacked
        self.memory_format = torch.contiguous_format
        stack = image_shape[0] if stacked else 1
        height, width, *colours = image_shape[stacked:]
        channels = stack * math.prod(colours)
        layers: list[nn.Module] = []
        for out_channels, kernel, stride in convolutions:
            layers += [nn.Conv2d(channels, out_channels, kernel, stride), nn.ReLU()]
            channels = out_channels
            height, width = ((size - kernel) // stride + 1 for size in (height, width))
        self.torso = nn.Sequential(*layers, nn.Flatten())
        self.dueling = dueling
        self.own_hidden = dueling and own_hidden
        # Both heads' hidden layers are one operation, as in MLPQNetwork.
        self.hidden = nn.Linear(channels * height * width, hidden_size * (1 + self.own_hidden))
        self._hidden_size = hidden_size
        self.advantage = nn.Linear(hidden_size, num_actions)
        self.value = nn.Linear(hidden_size, 1) if dueling else None

    def forward(self, obs: Tensor) -> Tensor:
        hidden = torch.relu(self.hidden(self.torso(self.image(obs))))
        if self.value is None:
            return in_float32(self.advantage, hidden)
        # Where both read the same, there is nothing but these.
        for_value, for_advantage = hidden[:, : self._hidden_size], hidden[:, -self._hidden_size :]
        value = in_float32(self.value, for_value)
        return dueling_q(value, in_float32(self.advantage, for_advantage))

    def image(self, obs: Tensor) -> Tensor:
        """[N, channels, H, W] in the numbers and the memory format that the convolutions want."""
        if self._image_axes == 3:  # Colours last.
            obs = obs.movedim(-1, 1).flatten(1, -3)
        elif obs.ndim == 3:
            obs = obs[:, None]
        device_type = obs.device.type
        lower = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if lower else torch.float32
        image = obs.to(dtype, memory_format=self.memory_format)
        # In place: the conversion made a tensor of its own.
        return image.mul_(1 / 255) if obs.dtype == torch.uint8 else image


def set_memory_format(network: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out the weights of convolutions, and the images that ConvQNetworks make, in that way."""
    for module in network.modules():
        if isinstance(module, ConvQNetwork):
            module.memory_format = memory_format
    # nn.Module.to asks for the same layout of a Conv3d's weights, which cannot have it.
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)


NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Convolutions of Mnih et al. 2015 (methods, "model architecture"), for 84×84 images."""
NATURE_HIDDEN = 512
MINATAR = ((16, 3, 1),)
"""Of the DQN of MinAtar's authors (Young & Tian 2019, section 4), for 10×10 images."""
MINATAR_HIDDEN = 128


def network_input_shape(config: Config, spec: EnvSpec) -> tuple[int, ...]:
    """Shape of what a network sees at once: an observation, or a stack [S, *obs_shape] of them."""
    if config.frame_stack == 1:
        return spec.obs_shape
    return (config.frame_stack, *spec.obs_shape)


def build_network(config: Config, spec: EnvSpec) -> nn.Module:
    """The network that `config.network` names.

    Raises ConfigError when it cannot be loaded, is no torch module, or its output is not
    [N, num_actions].
    """
    shape = network_input_shape(config, spec)
    if config.network == "mlp":
        return MLPQNetwork(shape, spec.num_actions, config.hidden_sizes, config.dueling)
    if config.network in ("nature", "minatar"):
        return _image_network(config, spec)
    module_name, _, function_name = config.network.partition(":")
    where = f"network = {config.network!r}"
    if not function_name:
        raise ConfigError(f"{where}: expected mlp, nature, minatar or module:function")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        network = function(shape, spec.num_actions)
    except Exception as error:
        raise ConfigError(f"{where} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{where} gave a {type(network).__name__}, expected a torch.nn.Module")
    probe = torch.from_numpy(np.zeros((2, *shape), spec.dtype))
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
    if values.shape != (2, spec.num_actions):
        raise ConfigError(
            f"{where} maps 2 observations to {tuple(values.shape)}, "
            f"expected (2, {spec.num_actions})"
        )
    return network


def _image_network(config: Config, spec: EnvSpec) -> ConvQNetwork:
    nature = config.network == "nature"
    convolutions, hidden_size = (NATURE, NATURE_HIDDEN) if nature else (MINATAR, MINATAR_HIDDEN)
    if len(spec.obs_shape) not in (2, 3):
        raise ConfigError(
            f"network = {config.network!r} takes images [height, width] or [height, width, "
            f"channels], not observations of shape {spec.obs_shape}: choose mlp"
        )
    height, width = spec.obs_shape[:2]
    for _, kernel, stride in convolutions:
        height, width = ((size - kernel) // stride + 1 for size in (height, width))
    if min(height, width) < 1:
        raise ConfigError(
            f"network = {config.network!r}: images of {spec.obs_shape[0]}×{spec.obs_shape[1]} "
            "pixels are too small for it: choose minatar or mlp, or enlarge them with resize"
        )
    return ConvQNetwork(
        network_input_shape(config, spec),
        config.frame_stack > 1,
        spec.num_actions,
        convolutions,
        hidden_size,
        config.dueling,
        # MinAtar's network is all hidden layer: a second one would double what an update costs.
        own_hidden=nature,
    )
