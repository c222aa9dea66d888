"""Optimisers against the papers' formulas, one number at a time."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from common.config import Config
from learner.optimizer import build_optimizer

CPU = torch.device("cpu")


def trajectory(config: Config, gradients: list[float], start: float = 0.0) -> list[float]:
    """Values of one parameter after each step with the given gradients."""
    parameter = nn.Parameter(torch.tensor([start]))
    optimizer = build_optimizer(config, [parameter], CPU)
    values = []
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
        values.append(parameter.item())
    return values


def centred_rmsprop(
    gradients: list[float], learning_rate: float, decay: float, epsilon: float
) -> list[float]:
    """Graves 2013, eq. 38–40 without momentum."""
    n = g = x = 0.0
    values = []
    for gradient in gradients:
        n = decay * n + (1 - decay) * gradient**2
        g = decay * g + (1 - decay) * gradient
        x -= learning_rate * gradient / math.sqrt(n - g**2 + epsilon)
        values.append(x)
    return values


def adam(gradients: list[float], learning_rate: float, epsilon: float) -> list[float]:
    """Kingma & Ba 2015, algorithm 1, with its β₁ = 0.9 and β₂ = 0.999."""
    m = v = x = 0.0
    values = []
    for t, gradient in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        x -= learning_rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + epsilon)
        values.append(x)
    return values


def gradients(n: int) -> list[float]:
    return np.random.default_rng(3).normal(0.3, 1.0, n).astype(np.float32).tolist()


def rmsprop(**changes: float) -> Config:
    return Config(optimizer="rmsprop", **changes)  # type: ignore[arg-type]


def test_one_rmsprop_step_is_the_hand_worked_one() -> None:
    # decay ¾, g = 4, lr 1, ε = 1: n = ¼·16 = 4, ḡ = ¼·4 = 1, √(4 − 1 + 1) = 2. Step: 4 / 2 = 2.
    [x] = trajectory(rmsprop(learning_rate=1.0, rmsprop_decay=0.75, rmsprop_epsilon=1.0), [4.0])
    assert x == pytest.approx(-2.0, rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
def test_an_rmsprop_trajectory_is_gravess(scale: float) -> None:
    """Of large gradients, of those whose variance is as small as ε, and of smaller ones yet."""
    scaled = [scale * gradient for gradient in gradients(200)]
    found = trajectory(rmsprop(learning_rate=1e-2, rmsprop_epsilon=1.5e-7), scaled)
    expected = centred_rmsprop(scaled, 1e-2, 0.95, 1.5e-7)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * scale)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_a_gradient_that_stays_the_same_never_makes_rmsprop_nan(scale: float) -> None:
    """n − ḡ² is a variance: with a constant gradient it goes to zero, and in float32 rounding can
    take it below, where it has no root. A thousand parameters, so that some do get there."""
    parameter = nn.Parameter(torch.zeros(1000))
    optimizer = build_optimizer(rmsprop(learning_rate=1e-6), [parameter], CPU)
    gradient = scale * torch.linspace(0.1, 1.0, 1000)
    for _ in range(600):
        parameter.grad = gradient.clone()
        optimizer.step()
    assert parameter.isfinite().all()


def test_one_adam_step_moves_by_the_learning_rate() -> None:
    # m̂ = g and v̂ = g² after one step: lr · g / (|g| + ε) ≈ lr, whatever the gradient's size.
    for gradient in (1e-3, 5.0, 1e3):
        [x] = trajectory(Config(learning_rate=0.1), [gradient])
        assert x == pytest.approx(-0.1, rel=1e-4)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_adam_is_fused_and_can_be_recorded_as_the_options_say(fused: bool, recorded: bool) -> None:
    config = Config(fused_optimizer=fused, cuda_graph=recorded)
    defaults = build_optimizer(config, [nn.Parameter(torch.zeros(1))], CPU).defaults
    assert (defaults["fused"], defaults["foreach"]) == (fused, not fused)
    assert defaults["capturable"] == recorded


@pytest.mark.parametrize("epsilon", [1e-8, 1e-2])
def test_an_adam_trajectory_is_kingma_and_bas(epsilon: float) -> None:
    config = Config(learning_rate=1e-2, adam_epsilon=epsilon)
    expected = adam(gradients(200), 1e-2, epsilon)
    np.testing.assert_allclose(trajectory(config, gradients(200)), expected, rtol=1e-4, atol=1e-6)
