"""The Q-network's forward pass for acting: the same values, sooner.

For a batch of sixteen, most of a small network's time goes into modules that call each other and
into the few numbers of the dueling sum. Acting needs no gradients, so layers are called as plain
functions, and the sum, which is linear in what the heads read, becomes part of the last layer:

    Q = V + A − mean A,   V = v·h + c,   A = W·h + b   ⇒   Q = (W − mean W + v)·h + (b − mean b + c)

with the means over the rows of W and of b (Wang et al. 2016, eq. 9).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from common.networks import ConvQNetwork, MLPQNetwork

Forward = Callable[[Tensor], Tensor]
"""Observations [N, *obs_shape], or stacks [N, S, *obs_shape], to Q-values [N, A]."""


def forward_of(network: nn.Module) -> Forward:
    """The forward pass with the network's present weights: ask again when they have changed.

    Q-values differ from the network's own by rounding. A network of the user's is called as it is.
    """
    # Not their subclasses: who writes one may compute something else.
    if type(network) is MLPQNetwork:
        return _of_mlp(network)
    if type(network) is ConvQNetwork:
        return _of_convolutions(network)
    return network


def _of_mlp(network: MLPQNetwork) -> Forward:
    hidden = [layer for layer in network.torso if isinstance(layer, nn.Linear)]
    weight, bias = network.head.weight.detach(), network.head.bias.detach()
    if network.dueling:
        weight, bias = _dueling(weight[:1], weight[1:]), _dueling(bias[:1], bias[1:])

    def forward(obs: Tensor) -> Tensor:
        h = obs.float().reshape(len(obs), -1)
        for layer in hidden:
            h = F.linear(h, layer.weight, layer.bias).relu_()
        return F.linear(h, weight, bias)

    return forward


def _of_convolutions(network: ConvQNetwork) -> Forward:
    hidden, advantage, value = network.hidden, network.advantage, network.value
    weight, bias = advantage.weight.detach(), advantage.bias.detach()
    if value is not None:
        of_value, centred = value.weight.detach(), weight - weight.mean(dim=0)
        if network.own_hidden:
            # V reads the first half of the hidden layer, A the second.
            weight = torch.cat([of_value.expand(len(weight), -1), centred], dim=1)
        else:
            weight = of_value + centred
        bias = _dueling(value.bias.detach(), bias)

    def forward(obs: Tensor) -> Tensor:
        h = F.linear(network.torso(network.image(obs)), hidden.weight, hidden.bias).relu_()
        return F.linear(h, weight, bias)

    return forward


def _dueling(value: Tensor, advantage: Tensor) -> Tensor:
    """The last layer's rows [A, …], from the heads' [1, …] and [A, …]."""
    return value + advantage - advantage.mean(dim=0)
