"""Q-networks: the dueling identity, observations of every kind, networks of the user's own."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.config import Config
from common.errors import ConfigError
from common.networks import (
    ConvQNetwork,
    MLPQNetwork,
    build_network,
    dueling_q,
    set_memory_format,
)
from common.spec import EnvSpec

SPEC = EnvSpec((4,), "<f4", 3)


def test_dueling_values_are_the_hand_worked_ones() -> None:
    # V = 10, A = (1, 2, 6), mean 3: Q = 10 + (1 − 3, 2 − 3, 6 − 3) = (8, 9, 13).
    q = dueling_q(torch.tensor([[10.0], [0.0]]), torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]]))
    assert q.tolist() == [[8.0, 9.0, 13.0], [0.0, 0.0, 0.0]]


def test_the_mean_of_dueling_values_is_the_state_value_and_shifts_of_a_cancel() -> None:
    value, advantage = torch.randn(50, 1), torch.randn(50, 7)
    q = dueling_q(value, advantage)
    torch.testing.assert_close(q.mean(dim=1, keepdim=True), value)
    torch.testing.assert_close(q, dueling_q(value, advantage + 3.0))


def test_the_mlp_is_its_formula() -> None:
    """Q = V + A − mean(A), with V and A from one layer over max(0, W·s + b)."""
    network = MLPQNetwork((2, 3), 4, hidden_sizes=(5,), dueling=True)
    obs = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)
    w1, b1, w2, b2 = (p.detach().numpy() for p in network.parameters())
    expected = []
    for o in obs:
        out = w2 @ np.maximum(0.0, w1 @ o.ravel() + b1) + b2
        expected.append(out[0] + out[1:] - out[1:].mean())
    with torch.no_grad():
        found = network(torch.from_numpy(obs)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_dueling_and_hidden_layers_the_mlp_is_linear() -> None:
    network = MLPQNetwork((3,), 2, hidden_sizes=(), dueling=False)
    weight, bias = network.parameters()
    obs = torch.randn(6, 3)
    torch.testing.assert_close(network(obs), obs @ weight.T + bias)


@pytest.mark.parametrize("dtype", ["|u1", "|b1", "|i1", "<i4", "<i8", "<f2", "<f8"])
def test_observations_of_every_dtype_are_taken_as_their_numbers(dtype: str) -> None:
    network = build_network(Config(), EnvSpec((2, 3), dtype, 4))
    obs = np.random.default_rng(0).integers(0, 2, (5, 2, 3))
    with torch.no_grad():
        found = network(torch.from_numpy(obs.astype(dtype)))
        expected = network(torch.from_numpy(obs.astype(np.float32)))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3, 4)])
def test_observations_of_every_shape_are_flattened(shape: tuple[int, ...]) -> None:
    network = build_network(Config(hidden_sizes=(8,)), EnvSpec(shape, "<f4", 3))
    assert network(torch.zeros(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", ["|u1", "|b1", "<f4"])
@pytest.mark.parametrize(("shape", "stacked"), [((9, 8, 2), False), ((3, 9, 8), True)])
def test_images_are_scaled_and_put_in_channels_and_stay_as_they_were(
    memory_format: torch.memory_format, dtype: str, shape: tuple[int, ...], stacked: bool
) -> None:
    """The convolution against sums over its windows, one by one, in float64."""
    network = ConvQNetwork(shape, stacked, 4, convolutions=[(5, 3, 2)], hidden_size=6)
    set_memory_format(network, memory_format)
    obs = np.random.default_rng(0).integers(0, 2, (2, *shape)).astype(dtype)
    if dtype == "|u1":
        obs *= 200
    given = torch.from_numpy(obs.copy())
    with torch.no_grad():
        found = network.torso(network.image(given)).unflatten(1, (5, 4, 3)).numpy()
    np.testing.assert_array_equal(given.numpy(), obs)

    image = obs.astype(np.float64) / (255.0 if dtype == "|u1" else 1.0)
    image = image if stacked else np.moveaxis(image, 3, 1)
    weight, bias = (p.detach().numpy() for p in network.torso[0].parameters())
    for n, c, y, x in np.ndindex(found.shape):
        window = image[n, :, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
        expected = max(0.0, float((window * weight[c]).sum() + bias[c]))
        assert found[n, c, y, x] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_layout_is_asked_of_nothing_but_images_and_their_convolutions() -> None:
    network = nn.ModuleList([nn.Conv2d(3, 5, 2), nn.Conv3d(3, 5, 2), nn.Linear(4, 2)])
    network.register_buffer("background", torch.zeros(1, 3, 8, 8))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    parameters = list(network.parameters())
    set_memory_format(network, torch.channels_last)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        colours_last = name in ("0.weight", "background")
        memory_format = torch.channels_last if colours_last else torch.contiguous_format
        assert tensor.is_contiguous(memory_format=memory_format), name
    # An optimiser that has them already keeps them.
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))
    set_memory_format(network, torch.contiguous_format)
    assert all(tensor.is_contiguous() for tensor in network.state_dict().values())


# What `module:function` may name: called with (obs_shape, num_actions).


def small(obs_shape: tuple[int, ...], num_actions: int) -> nn.Module:
    return nn.Linear(obs_shape[0], num_actions)


def too_wide(obs_shape: tuple[int, ...], num_actions: int) -> nn.Module:
    return nn.Linear(obs_shape[0], num_actions + 1)


def no_module(obs_shape: tuple[int, ...], num_actions: int) -> str:
    return "a network"


def raises(obs_shape: tuple[int, ...], num_actions: int) -> nn.Module:
    raise ValueError("no weights here")


class _RaisesInForward(nn.Module):
    def forward(self, obs: Tensor) -> Tensor:
        raise RuntimeError("expected an image")


def raises_in_forward(*_: Any) -> nn.Module:
    return _RaisesInForward()


def gives_a_tuple(*_: Any) -> nn.Module:
    return nn.LSTM(4, 3)


def test_a_network_can_be_given_as_module_and_function() -> None:
    network = build_network(Config(network=f"{__name__}:small"), SPEC)
    assert isinstance(network, nn.Linear)
    assert (network.in_features, network.out_features) == (4, 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mpl", "expected mlp, nature, minatar or module:function"),
        ("no_such_module:f", "No module named 'no_such_module'"),
        (f"{__name__}:absent", "absent"),
        (f"{__name__}:no_module", "gave a str, expected a torch.nn.Module"),
        (f"{__name__}:raises", "ValueError: no weights here"),
        (f"{__name__}:too_wide", r"maps 2 observations to \(2, 4\), expected \(2, 3\)"),
        (f"{__name__}:raises_in_forward", "expected an image"),
        (f"{__name__}:gives_a_tuple", "tuple"),
    ],
)
def test_a_network_that_cannot_serve_is_refused_with_its_name_and_the_reason(
    name: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        build_network(Config(network=name), SPEC)
    assert name in str(caught.value)
