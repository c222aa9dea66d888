"""The learner's equations against hand-worked numbers and loops over single transitions."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.blocks import MAX_REWARD
from learner.losses import huber, importance_weights, q_target, squared, td_error, weighted_mean

TRAP = 99.0
"""In cells that must not be read."""

errors = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=20)


def test_double_q_takes_the_online_networks_choice_at_the_target_networks_value() -> None:
    # Row 0: the online network prefers action 1, which the target network values at 7:
    #   1 + 0.5·7 = 4.5. Its own maximum, 99, must not be taken.
    # Row 1: action 2, valued −3: 2 + 0.25·(−3) = 1.25.
    # Row 2: discount 0, the episode terminated: the return alone.
    q_t_target = torch.tensor([[2.0, 7.0, TRAP], [TRAP, 5.0, -3.0], [TRAP, TRAP, TRAP]])
    q_t_online = torch.tensor([[0.1, 0.9, 0.5], [-4.0, -5.0, -3.5], [1.0, 2.0, 3.0]])
    n_step_return = torch.tensor([1.0, 2.0, -6.0])
    discount = torch.tensor([0.5, 0.25, 0.0])
    y = q_target(q_t_target, q_t_online, n_step_return, discount)
    assert y.tolist() == [4.5, 1.25, -6.0]


def test_plain_q_takes_the_target_networks_own_maximum() -> None:
    # Row 0: 1 + 0.5·7 = 4.5; row 1: 2 + 0.25·(−3) = 1.25.
    q_t_target = torch.tensor([[2.0, 7.0, 6.9], [-4.0, -5.0, -3.0]])
    y = q_target(q_t_target, q_t_target, torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.25]))
    assert y.tolist() == [4.5, 1.25]


@pytest.mark.parametrize("loss", [huber, squared])
def test_of_the_largest_rewards_that_are_stored_every_loss_is_finite(
    loss: Callable[[Tensor], Tensor],
) -> None:
    delta = torch.full((1 << 20,), 2 * 255 * MAX_REWARD)  # Two returns of n = 255, far apart.
    assert weighted_mean(loss(delta), torch.ones_like(delta)).isfinite()


@pytest.mark.parametrize("double", [True, False])
def test_a_batchs_targets_are_those_of_its_transitions_one_by_one(double: bool) -> None:
    rng = np.random.default_rng(1)
    q_target_net, q_online = rng.normal(size=(2, 64, 5)).astype(np.float32)
    g, discount = rng.normal(size=(2, 64)).astype(np.float32)
    expected = []
    for i in range(64):
        selector = q_online[i] if double else q_target_net[i]
        best = max(range(5), key=lambda a, q=selector: q[a])  # type: ignore[misc]
        expected.append(g[i] + discount[i] * q_target_net[i][best])
    y = q_target(
        torch.from_numpy(q_target_net),
        torch.from_numpy(q_online if double else q_target_net),
        torch.from_numpy(g),
        torch.from_numpy(discount),
    )
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("target_shape", "selector_shape", "n"),
    [((4, 3), (4, 2), 4), ((4, 3), (5, 3), 4), ((4, 3), (4, 3), 1), ((1, 3), (1, 3), 4)],
)
def test_shapes_that_would_broadcast_are_refused(
    target_shape: tuple[int, int], selector_shape: tuple[int, int], n: int
) -> None:
    with pytest.raises(ValueError, match=r"\[N, A\]"):
        q_target(
            torch.zeros(target_shape), torch.zeros(selector_shape), torch.zeros(n), torch.zeros(n)
        )


def test_the_error_is_target_minus_the_value_of_the_action_taken() -> None:
    q_tm1 = torch.tensor([[TRAP, 2.0, TRAP], [-1.0, TRAP, TRAP]])
    delta = td_error(q_tm1, torch.tensor([1, 0]), torch.tensor([5.0, 5.0]))
    assert delta.tolist() == [3.0, 6.0]


def test_gradients_flow_through_the_action_taken_and_nothing_else() -> None:
    q_tm1 = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    q_t = torch.tensor([[5.0, 6.0], [7.0, 8.0]], requires_grad=True)
    target = q_target(q_t, q_t, torch.ones(2), torch.full((2,), 0.5))
    td_error(q_tm1, torch.tensor([1, 0]), target).sum().backward()
    # δ = y − Q(s, a): its derivative is −1 at the cells taken, 0 elsewhere.
    assert q_tm1.grad is not None
    assert q_tm1.grad.tolist() == [[0.0, -1.0], [-1.0, 0.0]]
    assert q_t.grad is None


@pytest.mark.parametrize(
    ("delta", "loss", "slope"),
    [(0, 0, 0), (0.5, 0.125, 0.5), (-0.5, 0.125, -0.5), (1, 0.5, 1), (-3, 2.5, -1), (8, 7.5, 1)],
)
def test_hubers_value_and_slope_are_the_hand_worked_ones(
    delta: float, loss: float, slope: float
) -> None:
    x = torch.tensor([delta], dtype=torch.float32, requires_grad=True)
    y = huber(x)
    y.sum().backward()
    assert x.grad is not None
    assert (y.item(), x.grad.item()) == (loss, slope)


@settings(max_examples=60)
@given(errors)
def test_huber_is_torchs_huber_and_its_smooth_l1(values: list[float]) -> None:
    delta = torch.tensor(values, requires_grad=True)
    zero = torch.zeros(len(values))
    ours = _value_and_gradient(huber(delta), delta)
    for theirs in (torch.nn.functional.huber_loss, torch.nn.functional.smooth_l1_loss):
        reference = _value_and_gradient(theirs(delta, zero, reduction="none"), delta)
        torch.testing.assert_close(ours, reference)


def test_an_infinite_or_undefined_error_stays_visible() -> None:
    losses = huber(torch.tensor([math.inf, -math.inf, math.nan]))
    assert losses[:2].tolist() == [math.inf, math.inf]
    assert losses[2].isnan()


def test_the_squared_loss_is_half_the_square() -> None:
    assert squared(torch.tensor([0.0, -2.0, 3.0])).tolist() == [0.0, 2.0, 4.5]


def test_losses_are_weighted_then_averaged_over_the_batch() -> None:
    # (1·4 + 0.5·2 + 0·99) / 3 = 5/3: divided by N, not by the sum of the weights.
    losses, weight = torch.tensor([4.0, 2.0, TRAP]), torch.tensor([1.0, 0.5, 0.0])
    assert weighted_mean(losses, weight).item() == pytest.approx(5 / 3)


def test_importance_weights_are_the_hand_worked_ones() -> None:
    # N = 100, β = ½: N·P = 0.25, 1, 4; to the power −½: 2, 1, ½; over the maximum: 1, ½, ¼.
    weight = importance_weights(np.array([0.0025, 0.01, 0.04], np.float32), 0.5)
    np.testing.assert_allclose(weight, [1.0, 0.5, 0.25], rtol=1e-6)


@settings(max_examples=60)
@given(
    st.lists(st.floats(2**-30, 1.0, width=32), min_size=1, max_size=20),
    st.integers(1, 10_000_000),
    st.floats(0.0, 1.0),
)
def test_importance_weights_are_those_of_the_papers_loop(
    probability: list[float], table_size: int, exponent: float
) -> None:
    """Schaul et al. 2016, algorithm 1, line 10, in logarithms."""
    logs = [-exponent * (math.log(table_size) + math.log(p)) for p in probability]
    expected = [math.exp(x - max(logs)) for x in logs]
    weight = importance_weights(np.array(probability, np.float32), exponent)
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight, expected, rtol=1e-5)
    assert weight.max() == 1.0


@pytest.mark.parametrize(
    ("probability", "exponent"), [([0.9, 0.001, 0.3], 0.0), ([0.25, 0.25, 0.25], 0.7)]
)
def test_without_an_exponent_or_a_preference_all_weigh_the_same(
    probability: list[float], exponent: float
) -> None:
    weight = importance_weights(np.array(probability, np.float32), exponent)
    assert weight.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("odd", [0.0, -0.25, math.inf, math.nan])
def test_there_are_no_importance_weights_for_what_is_no_probability(odd: float) -> None:
    with pytest.raises(ValueError, match="a probability is not positive and finite"):
        importance_weights(np.array([0.5, odd, 0.25], np.float32), 0.4)


def _value_and_gradient(loss: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]
