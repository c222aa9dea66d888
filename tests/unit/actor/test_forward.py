"""The forward pass of acting against the network's own, and the policy that uses it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actor.forward import forward_of
from actor.policy import Policy
from common.config import Config
from common.finite import all_finite
from common.manifest import Manifest
from common.messages import Weights
from common.networks import MLPQNetwork, build_network
from common.spec import EnvSpec

VECTOR, NUMBER, MANY = EnvSpec((4,), "<f4", 3), EnvSpec((), "<i4", 2), EnvSpec((2, 3), "|b1", 5)
GREY, COLOUR = EnvSpec((84, 84), "|u1", 6), EnvSpec((10, 10, 4), "|b1", 3)

NETWORKS = [
    (VECTOR, {}),
    (VECTOR, {"hidden_sizes": ()}),
    (VECTOR, {"frame_stack": 3}),
    (NUMBER, {}),
    (MANY, {}),
    (COLOUR, {"network": "minatar"}),
    (COLOUR, {"network": "minatar", "frame_stack": 2}),
    (GREY, {"network": "nature", "frame_stack": 4}),
]


def observations(config: Config, spec: EnvSpec) -> Tensor:
    stack = () if config.frame_stack == 1 else (config.frame_stack,)
    top = 2 if spec.dtype == np.bool_ else 200
    drawn = np.random.default_rng(0).integers(0, top, (5, *stack, *spec.obs_shape))
    return torch.from_numpy(drawn.astype(spec.dtype))


@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize(("spec", "settings"), NETWORKS)
def test_acting_sees_the_values_of_the_network(
    spec: EnvSpec, settings: dict[str, object], dueling: bool
) -> None:
    config = Config(**settings, dueling=dueling)
    network = build_network(config, spec)
    obs = observations(config, spec)
    with torch.no_grad():
        expected = network(obs)
        found = forward_of(network)(obs)
    assert found.shape == (5, spec.num_actions)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_dueling_sum_is_part_of_the_last_layer() -> None:
    """One number s and no hidden layer: V = 10·s + 1, A = (1, 2, 6)·s + (0, 3, 0), whose means are
    3·s + 1. Q = (10 − 3 + (1, 2, 6))·s + 1 − 1 + (0, 3, 0) = (8, 9, 13)·s + (0, 3, 0)."""
    network = MLPQNetwork((1,), 3, hidden_sizes=()).requires_grad_(False)
    network.head.weight.copy_(torch.tensor([[10.0], [1.0], [2.0], [6.0]]))
    network.head.bias.copy_(torch.tensor([1.0, 0.0, 3.0, 0.0]))
    q = forward_of(network)(torch.tensor([[0.0], [1.0], [2.0]]))
    assert q.tolist() == [[0.0, 3.0, 0.0], [8.0, 12.0, 13.0], [16.0, 21.0, 26.0]]


def test_a_network_of_the_users_own_is_called_as_it_is() -> None:
    network = nn.Linear(4, 3)
    assert forward_of(network) is network


def test_observations_stay_as_they_are() -> None:
    """Activations are changed in place; with no hidden layer, the first one is the observation."""
    network = MLPQNetwork((4,), 3, hidden_sizes=()).requires_grad_(False)
    obs = torch.full((2, 4), -1.0)
    forward_of(network)(obs)
    assert torch.equal(obs, torch.full((2, 4), -1.0))


def test_newly_loaded_weights_are_the_ones_that_act() -> None:
    policy = Policy(Manifest("run", Config(), VECTOR))
    obs = np.ones((2, 4), np.float32)
    assert policy.q_values(obs).any()
    zeros = {
        name: np.zeros(tensor.shape, np.float32)
        for name, tensor in build_network(Config(), VECTOR).state_dict().items()
    }
    policy.load(Weights(0, 7, zeros))
    assert policy.version == 7
    assert not policy.q_values(obs).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 3, 6])
def test_one_number_that_is_not_finite_is_found_anywhere(bad: float, at: int) -> None:
    values = np.array([0.0, -1.0, 3e38, -3e38, 1e-40, 2.0, 0.5], np.float32)
    assert all_finite(values)
    values[at] = bad
    assert not all_finite(values)


def test_no_numbers_are_finite_ones() -> None:
    assert all_finite(np.empty(0, np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_floating_type_of_the_wire_is_looked_through(dtype: type[np.floating[Any]]) -> None:
    values = np.linspace(-1e4, 1e4, 7).astype(dtype)
    assert all_finite(values)
    for bad in (np.nan, np.inf, -np.inf):
        values[3] = bad
        assert not all_finite(values)
