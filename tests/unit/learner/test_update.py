"""Whole updates against a slow oracle without autograd: a linear network, in numpy, by loops."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from common.config import Config
from common.networks import MLPQNetwork
from learner.checkpoint import restore_learner
from learner.update import QLearner, TrainBatch, batch_statistics
from tests.networks import normalised
from tests.unit.learner.test_checkpoint import save

CPU = torch.device("cpu")
OBS, ACTIONS, N = 4, 3, 16
Array = npt.NDArray[np.float64]


def make_learner(**changes: Any) -> QLearner:
    config = Config(hidden_sizes=(), batch_size=N, **{"learning_rate": 0.01, **changes})
    torch.manual_seed(0)
    network = MLPQNetwork((OBS,), ACTIONS, config.hidden_sizes, config.dueling)
    return QLearner(network, config, CPU)


def make_batch(seed: int) -> TrainBatch:
    """Returns large enough for both branches of Huber's loss; a third of the episodes end."""
    rng = np.random.default_rng(seed)

    def floats(values: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.float32))

    return TrainBatch(
        frames=floats(rng.normal(size=(N, 2, OBS))),
        shift=torch.ones(N, dtype=torch.int64),
        action=torch.from_numpy(rng.integers(0, ACTIONS, N)),
        n_step_return=floats(rng.normal(0, 2, N)),
        discount=floats(rng.choice([0.0, 0.9, 0.97], N)),
        weight=floats(rng.uniform(0.1, 1.0, N)),
        key=np.arange(N),
        table_size=100,
        inserted={0: 100},
        sampled=N,
        mean_version=0.0,
        slot=0,
    )


class Oracle:
    """The same learner, one transition at a time, with derivatives written out by hand."""

    def __init__(self, learner: QLearner) -> None:
        self.config = learner.config
        weight, bias = (p.detach().numpy().astype(np.float64) for p in learner.online.parameters())
        self.online: tuple[Array, Array] = (weight.copy(), bias.copy())
        self.target: tuple[Array, Array] = (weight.copy(), bias.copy())
        self.moments = [(np.zeros_like(p), np.zeros_like(p)) for p in self.online]
        self.updates = 0

    def q(self, parameters: tuple[Array, Array], obs: Array) -> Array:
        out = parameters[0] @ obs + parameters[1]
        return out[0] + out[1:] - out[1:].mean() if self.config.dueling else out

    def errors(self, batch: TrainBatch) -> Array:
        """δ of each transition."""
        delta = np.zeros(N)
        for i in range(N):
            obs, next_obs = batch.frames[i].numpy()
            q_target = self.q(self.target, next_obs)
            chooser = self.q(self.online, next_obs) if self.config.double else q_target
            bootstrap = q_target[int(np.argmax(chooser))]
            y = float(batch.n_step_return[i]) + float(batch.discount[i]) * bootstrap
            delta[i] = y - self.q(self.online, obs)[int(batch.action[i])]
        return delta

    def loss(self, batch: TrainBatch) -> float:
        total = 0.0
        for delta, weight in zip(self.errors(batch), batch.weight.tolist(), strict=True):
            small = self.config.loss == "squared" or abs(delta) <= 1
            total += weight * (0.5 * delta**2 if small else abs(delta) - 0.5)
        return total / N

    def gradients(self, batch: TrainBatch) -> tuple[Array, Array]:
        weight, bias = np.zeros_like(self.online[0]), np.zeros_like(self.online[1])
        for i, delta in enumerate(self.errors(batch)):
            slope = delta if self.config.loss == "squared" else np.clip(delta, -1.0, 1.0)
            # dL/dQ(s, a) = −w·slope/N, then through Q(s, a) = V + A_a − mean(A), or Q = out.
            d_q = -float(batch.weight[i]) * slope / N
            action = int(batch.action[i])
            d_out = np.zeros(len(bias))
            if self.config.dueling:
                d_out[0] = d_q
                d_out[1:] -= d_q / ACTIONS
                d_out[1 + action] += d_q
            else:
                d_out[action] = d_q
            weight += np.outer(d_out, batch.frames[i, 0].numpy())
            bias += d_out
        return weight, bias

    def clipped(self, gradients: tuple[Array, Array]) -> tuple[Array, Array]:
        limit = self.config.max_grad_norm
        norm = float(np.sqrt(sum((g**2).sum() for g in gradients)))
        scale = 1.0 if limit is None or norm <= limit else limit / norm
        return gradients[0] * scale, gradients[1] * scale

    def update(self, batch: TrainBatch) -> None:
        """Adam (Kingma & Ba 2015), then the target's copy."""
        self.updates += 1
        t, config = self.updates, self.config
        gradients = self.clipped(self.gradients(batch))
        for p, g, (m, v) in zip(self.online, gradients, self.moments, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g**2 - v)
            m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
            p -= config.learning_rate * m_hat / (np.sqrt(v_hat) + config.adam_epsilon)
        if t % config.target_update_period == 0:
            self.target = (self.online[0].copy(), self.online[1].copy())


def assert_parameters(network: nn.Module, expected: tuple[Array, Array]) -> None:
    for found, reference in zip(network.parameters(), expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), reference, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize(
    ("loss", "max_grad_norm"), [("huber", None), ("huber", 0.05), ("squared", None)]
)
def test_updates_are_those_of_the_oracle(
    double: bool, dueling: bool, loss: str, max_grad_norm: float | None
) -> None:
    """Without double and dueling, with one-step targets and weights of 1, this is plain DQN."""
    learner = make_learner(
        double=double,
        dueling=dueling,
        loss=loss,
        max_grad_norm=max_grad_norm,
        target_update_period=3,
    )
    oracle = Oracle(learner)
    for seed in range(8):
        batch = make_batch(seed)
        if not double and not dueling:
            batch = replace(batch, weight=torch.ones(N))
        priority, loss_value, mean_q = learner.update(batch).read()
        np.testing.assert_allclose(priority, np.abs(oracle.errors(batch)), rtol=1e-3, atol=1e-4)
        assert loss_value == pytest.approx(oracle.loss(batch), rel=1e-3)
        obs = batch.frames[:, 0].numpy()
        taken = [oracle.q(oracle.online, obs[i])[batch.action[i]] for i in range(N)]
        assert mean_q == pytest.approx(np.mean(taken), rel=1e-3, abs=1e-4)
        oracle.update(batch)
        assert_parameters(learner.online, oracle.online)
        assert_parameters(learner.target, oracle.target)
    assert learner.updates == 8


def test_the_target_stands_still_between_copies_and_is_copied_exactly() -> None:
    learner = make_learner(target_update_period=4)
    for update in range(1, 13):
        before = [p.clone() for p in learner.target.parameters()]
        learner.update(make_batch(update))
        expected = learner.online.parameters() if update % 4 == 0 else before
        for found, reference in zip(learner.target.parameters(), expected, strict=True):
            assert torch.equal(found, reference)


def test_the_target_begins_as_a_copy_that_shares_nothing() -> None:
    learner = make_learner(target_update_period=1000)
    before = [p.detach().clone() for p in learner.online.parameters()]
    learner.update(make_batch(0))
    for found, reference in zip(learner.target.parameters(), before, strict=True):
        assert torch.equal(found, reference)
        assert not found.requires_grad


def test_what_the_target_computes_depends_on_no_other_transition_of_the_batch() -> None:
    torch.manual_seed(0)
    learner = QLearner(normalised((OBS,), ACTIONS), Config(batch_size=N), CPU)
    before = {name: tensor.clone() for name, tensor in learner.target.state_dict().items()}
    learner.update(make_batch(0))
    # BatchNorm in training would have noted the batch.
    for name, tensor in learner.target.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    # It noted the states that were acted in, not those after them, for which an action is chosen.
    assert learner.online.get_buffer("2.num_batches_tracked") == 1
    learner.copy_target()
    obs = make_batch(1).frames[:, 0]
    with torch.no_grad():
        torch.testing.assert_close(learner.target(obs)[:1], learner.target(obs[:1]))


class Contrary(nn.Module):
    """Whose best action in train mode is the worst one, as dropout may have it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(OBS, ACTIONS)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        q_values: torch.Tensor = self.head(obs)
        return -q_values if self.training else q_values


def test_the_bootstrap_action_is_the_online_networks_in_eval_mode() -> None:
    torch.manual_seed(0)
    learner = QLearner(Contrary(), Config(batch_size=N), CPU)
    for parameter in learner.target.parameters():
        parameter.add_(torch.randn_like(parameter))
    batch = make_batch(3)
    obs, next_obs = batch.frames.unbind(1)
    with torch.no_grad():
        chosen = learner.online.get_submodule("head")(next_obs).argmax(1, keepdim=True)
        y = batch.n_step_return + batch.discount * learner.target(next_obs).gather(1, chosen)[:, 0]
        delta = y - learner.online(obs).gather(1, batch.action[:, None])[:, 0]
    np.testing.assert_allclose(learner.update(batch).read()[0], delta.abs().numpy(), rtol=1e-5)


class Uncommon(nn.Module):
    """Replaces a buffer by another tensor, has weights that their module keeps in a list as well
    (nn.GRU), weights in two places, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(OBS))
        self.recurrent = nn.GRU(OBS, OBS, batch_first=True)
        self.one, self.other = nn.Linear(OBS, OBS), nn.Linear(OBS, OBS)
        self.other.weight = self.one.weight
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(OBS, ACTIONS))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * obs.mean(0)
        features = self.recurrent((obs - self.mean)[:, None])[0][:, 0]
        q_values: torch.Tensor = self.head(self.other(torch.relu(self.one(features))))
        return q_values


def test_whoever_chooses_the_bootstrap_action_has_the_online_networks_tensors(
    tmp_path: Path,
) -> None:
    def uncommon(seed: int) -> QLearner:
        torch.manual_seed(seed)
        return QLearner(Uncommon(), Config(batch_size=N, learning_rate=0.01), CPU)

    def chooses_as_the_online_network(learner: QLearner) -> None:
        obs = make_batch(9).frames[:, 0]
        with torch.no_grad():
            expected = copy.deepcopy(learner.online).eval()(obs)
            assert torch.equal(learner._selector(obs), expected)
        assert learner.online.training

    learner, resumed = uncommon(0), uncommon(1)
    for seed in range(3):
        learner.update(make_batch(seed))
        chooses_as_the_online_network(learner)
    restore_learner(save(tmp_path, learner), resumed)
    chooses_as_the_online_network(resumed)
    resumed.update(make_batch(3))
    chooses_as_the_online_network(resumed)


@pytest.mark.parametrize("limit", [None, 1e-3, 1e6])
def test_gradients_are_scaled_down_to_the_limit_and_never_up(limit: float | None) -> None:
    learner, batch = make_learner(max_grad_norm=limit), make_batch(5)
    oracle = Oracle(learner)
    norm = float(np.sqrt(sum((g**2).sum() for g in oracle.gradients(batch))))
    learner.update(batch)
    # The optimiser's step leaves what it was given.
    found = torch.cat([p.grad.flatten() for p in learner.online.parameters() if p.grad is not None])
    assert float(found.norm()) == pytest.approx(min(norm, limit or norm), rel=1e-3)
    expected = np.concatenate([g.ravel() for g in oracle.clipped(oracle.gradients(batch))])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-6)


def test_weights_change_the_loss_but_not_the_priorities() -> None:
    batch = make_batch(2)
    whole = make_learner().update(batch)
    half = make_learner().update(replace(batch, weight=batch.weight / 2))
    np.testing.assert_array_equal(whole.read()[0], half.read()[0])
    assert half.read()[1] == pytest.approx(whole.read()[1] / 2, rel=1e-5)


def test_transitions_of_weight_zero_move_nothing() -> None:
    learner = make_learner()
    before = [p.detach().clone() for p in learner.online.parameters()]
    learner.update(replace(make_batch(2), weight=torch.zeros(N)))
    for found, reference in zip(learner.online.parameters(), before, strict=True):
        assert torch.equal(found, reference)


def test_what_an_update_returned_does_not_change_with_the_next_one() -> None:
    learner = make_learner()
    first = learner.update(make_batch(1))
    copy = first.read()[0].copy()
    learner.update(make_batch(2))
    np.testing.assert_array_equal(first.read()[0], copy)


def test_a_loss_that_is_not_finite_is_seen_and_its_batch_described() -> None:
    batch = make_batch(0)
    batch.n_step_return[3] = torch.nan
    _, loss, _ = make_learner().update(batch).read()
    assert np.isnan(loss)
    statistics = batch_statistics(batch)
    assert not statistics["n_step_return"]["finite"]
    assert statistics["frames"] == {
        "min": float(batch.frames.min()),
        "max": float(batch.frames.max()),
        "finite": True,
    }
