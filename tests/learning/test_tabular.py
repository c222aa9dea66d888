"""The whole algorithm on an MDP whose Q-values are known: rollout, table and learner in one thread.

The network is linear over one-hot states, which is a table; nothing is approximated, so that what
is learned must come out as what dynamic programming computes from the same probabilities.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from actor.blocks import Blocks
from actor.rollout import Rollout
from common.config import Config
from common.environments import make_vector, spec_of
from common.manifest import Manifest
from common.messages import Ack, Batch, Insert, SampleRequest
from common.networks import build_network
from common.rate_limiter import RateLimiter
from learner.host_batch import HostBatch
from learner.update import QLearner, TrainBatch
from replay_server.sampler import PrioritizedSampler, UniformSampler
from replay_server.storage import Storage
from replay_server.table import Table
from tests.environments import REWARDS, SUCCESSORS, TERMINAL

UPDATES = 2_500
STATES = len(SUCCESSORS)
Q = npt.NDArray[np.float64]

TABULAR = Config(
    env="tests.environments:Tabular-v0",
    hidden_sizes=(),
    discount=0.9,
    n_step=1,
    envs_per_actor=8,
    block_length=8,
    replay_capacity=20_000,
    min_size_to_sample=1_000,
    samples_per_insert=16.0,
    batch_size=256,
    learning_rate=0.005,
    loss="squared",  # Huber's minimum is no mean.
    importance_sampling_exponent=1.0,  # β < 1 leaves a bias where transitions are random.
    target_update_period=50,
    device="cpu",
)
PLAIN = {"double": False, "dueling": False, "prioritized": False}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As in the learner; and a second thread would wait for a core more than it helps."""
    before = torch.get_num_threads()
    torch.set_num_threads(TABULAR.learner_threads)
    yield
    torch.set_num_threads(before)


def known_q_values(discount: float, n_step: int) -> Q:
    """The fixed point of Q(s, a) = E[Σ_{k<n} γ^k r_k + γ^n max_a' Q(s_n, a')], where actions after
    the first are random. With n = 1 that is Q*, by value iteration. Terminal states are worth 0."""
    q = np.zeros_like(REWARDS)
    for _ in range(1_000):
        value = q.max(axis=1)
        for _ in range(n_step - 1):
            value = (REWARDS + discount * SUCCESSORS @ value).mean(axis=1)
        q = REWARDS + discount * SUCCESSORS @ value
    return q


class Loop:
    """Rollout, table and learner, handing each other messages."""

    def __init__(self, config: Config, epsilon: float) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.vector = make_vector(config, config.envs_per_actor)
        manifest = Manifest("tabular", config, spec_of(self.vector))
        self.host = HostBatch(manifest, torch.device("cpu"))
        self.learner = QLearner(build_network(config, manifest.spec), config, torch.device("cpu"))
        rngs = [np.random.default_rng([config.seed, i]) for i in range(2)]
        self.rollout = Rollout(self.vector, manifest, self.q_values, rngs[0], seed=config.seed)
        self.epsilon = np.full(config.envs_per_actor, epsilon)
        items = config.replay_slots * config.block_length
        self.table = Table(
            Storage(manifest.spec, manifest.layout, config.replay_slots),
            PrioritizedSampler(items, config.priority_exponent, config.priority_epsilon, rngs[1])
            if config.prioritized
            else UniformSampler(items, rngs[1]),
            RateLimiter(
                config.samples_per_insert,
                config.min_size_to_sample,
                config.limiter_tolerance,
                config.batch_size,
            ),
            discount=config.discount,
            batch_size=config.batch_size,
            insert_window=config.insert_window,
        )

    def q_values(self, obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            values: npt.NDArray[np.float32] = self.learner.online(torch.from_numpy(obs)).numpy()
        return values

    def run(self, updates: int) -> Q:
        """Q-values of all states, averaged over the second half of the updates: what is left of
        the noise of single batches."""
        replies = deque(self.table.handle(b"learner", SampleRequest(1), 0.0))
        total, inserts, acknowledged = np.zeros_like(REWARDS), 0, 0
        while self.learner.updates < updates:
            while replies:
                _, message = replies.popleft()
                if isinstance(message, Batch):
                    replies += self.table.handle(b"learner", self.train(message), 0.0)
                    if self.learner.updates > updates // 2:
                        total += self.q_values(np.eye(STATES, dtype=np.uint8))
                else:
                    assert isinstance(message, Ack)
                    acknowledged += 1
            for blocks in self.rollout.step(self.epsilon):
                replies += self.table.handle(b"actor", _insert(blocks, inserts), 0.0)
                inserts += 1
        self.vector.close()
        assert inserts - acknowledged <= self.config.insert_window
        return total / (self.learner.updates - updates // 2)

    def train(self, batch: Batch) -> SampleRequest:
        """An update; returns the request for the next batch with this one's priorities."""
        self.host.fill(batch)
        self.host.weigh(batch.probability, batch.table_size)
        train_batch = TrainBatch(
            **self.host.tensors,
            key=batch.key,
            table_size=batch.table_size,
            inserted=batch.inserted,
            sampled=batch.sampled,
            mean_version=batch.mean_version,
            slot=0,
        )
        priority, _, _ = self.learner.update(train_batch).read()
        return SampleRequest(1, batch.key, priority)


def _insert(blocks: Blocks, sequence: int) -> Insert:
    return Insert(
        0, sequence, 0, blocks.obs, blocks.action, blocks.reward, blocks.row_kind, blocks.priority
    )


@pytest.mark.parametrize(
    ("changes", "epsilon"),
    [
        pytest.param(PLAIN, 1.0, id="plain DQN"),
        pytest.param({}, 0.5, id="double, dueling, prioritised"),
        pytest.param(
            {"autoreset": "same_step"},
            0.5,
            id="... with the other autoreset mode",
            marks=pytest.mark.slow,
        ),
        # Bootstrapped from: values must not depend on where episodes are cut off.
        pytest.param({"env_kwargs": {"max_episode_steps": 2}}, 0.5, id="... truncated"),
        # Off-policy n-step returns converge to values of the policy that acted: here random.
        pytest.param({"n_step": 3}, 1.0, id="... with three-step returns"),
    ],
)
def test_what_is_learned_is_what_dynamic_programming_computes(
    changes: dict[str, Any], epsilon: float
) -> None:
    config = TABULAR.model_copy(update=changes)
    learned = Loop(config, epsilon).run(UPDATES)
    known = known_q_values(config.discount, config.n_step)
    acting = [s for s in range(STATES) if s not in TERMINAL]
    np.testing.assert_allclose(learned[acting], known[acting], atol=0.05)


def test_the_known_values_tell_the_variants_apart() -> None:
    """Or else the test above would prove little: three-step values of random actions are no Q*."""
    one, three = known_q_values(0.9, 1), known_q_values(0.9, 3)
    assert np.abs(one - three).max() > 0.3
