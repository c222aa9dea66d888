"""Rollouts against a naive collector that plays one environment at a time, episode by episode."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest

from actor.blocks import Blocks
from actor.rollout import Rollout
from common.blocks import RowKind
from common.config import Config
from common.environments import make_vector, spec_of
from common.manifest import Manifest
from common.messages import Insert
from common.transitions import copy_frames, find_transitions
from replay_server.storage import Storage
from tests.experience import seen

LEDGER = "tests.environments:Ledger-v0"
SEED = 40
CONFIG = Config(env=LEDGER, discount=0.5, n_step=3, block_length=4)
WAYS = [
    ("sync", "next_step"),
    ("sync", "same_step"),
    ("async", "next_step"),
    ("async", "same_step"),
]

_MIX = np.random.default_rng(11).normal(size=(4, 3))


def q_values(obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """As good as random, but the same for the same observation however it is batched."""
    mixed = (obs.astype(np.float64)[:, :, None] * _MIX).sum(axis=1)
    return np.sin(7.0 * mixed).astype(np.float32)


def cartpole_q_values(obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(q_values(obs)[:, :2])


class Transition(NamedTuple):
    obs: tuple[float, ...]
    action: int
    n_step_return: float
    discount: float
    next_obs: tuple[float, ...]
    priority: float


@dataclass
class Played:
    rollout: Rollout
    manifest: Manifest
    blocks: dict[int, list[Insert]]
    """By stream, in order."""

    def sort(self, blocks: Blocks) -> None:
        """Blocks to their streams: a Ledger's first column is its seed; a CartPole is alone."""
        for b in range(len(blocks.action)):
            is_ledger = self.manifest.config.env == LEDGER
            stream = int(blocks.obs[b, 0, 0]) - SEED if is_ledger else 0
            one = (getattr(blocks, name)[b : b + 1] for name in Blocks.__dataclass_fields__)
            self.blocks[stream].append(Insert(0, len(self.blocks[stream]), 0, *one))

    def transitions(self, stream: int) -> list[Transition]:
        """What the replay would hand to the learner, in the order of the stream."""
        layout = self.manifest.layout
        storage = Storage(self.manifest.spec, layout, slots=len(self.blocks[stream]))
        found = []
        for insert in self.blocks[stream]:
            slots, starts = storage.write(insert)
            offsets = np.flatnonzero(starts[0])
            items = slots[0] * layout.length + offsets
            walk = find_transitions(storage, items, self.manifest.config.discount)
            obs, next_obs = seen(copy_frames(storage, walk.rows), walk.shift, layout)
            priority = insert.priority[0][offsets]
            found += [
                Transition(
                    tuple(obs[i]),
                    int(walk.action[i]),
                    float(walk.n_step_return[i]),
                    float(walk.discount[i]),
                    tuple(next_obs[i]),
                    float(priority[i]),
                )
                for i in range(len(offsets))
            ]
        return found


def play(
    config: Config, num_envs: int, steps: int, epsilon: float = 0.0, q_function: Any = q_values
) -> Played:
    """`steps` calls of the vector environment."""
    vector = make_vector(config, num_envs)
    try:
        manifest = Manifest("run", config, spec_of(vector))
        rollout = Rollout(vector, manifest, q_function, np.random.default_rng(0), SEED)
        played = Played(rollout, manifest, defaultdict(list))
        for _ in range(steps):
            for blocks in rollout.step(np.full(num_envs, epsilon)):
                played.sort(blocks)
        return played
    finally:
        vector.close()


def naive_transitions(
    config: Config, seed: int, count: int, q_function: Any = q_values
) -> list[Transition]:
    """The first `count` transitions of one environment, from whole episodes, by the definition."""
    env = gym.make(config.env, **config.env_kwargs)
    found: list[Transition] = []
    obs, _ = env.reset(seed=seed)
    while len(found) < count:
        observations, actions, rewards = [obs], [], []
        terminated = truncated = False
        while not (terminated or truncated):
            action = int(np.argmax(q_function(obs[None])[0]))
            obs, reward, terminated, truncated, _ = env.step(action)
            clip = config.reward_clip or np.inf
            observations.append(obs)
            actions.append(action)
            rewards.append(min(max(float(reward), -clip), clip))
        for t, action in enumerate(actions):
            m = min(config.n_step, len(actions) - t)
            g = sum(config.discount**k * rewards[t + k] for k in range(m))
            bootstraps = not (terminated and t + m == len(actions))
            discount = config.discount**m if bootstraps else 0.0
            q, next_q = q_function(np.stack([observations[t], observations[t + m]]))
            delta = g + discount * float(next_q.max()) - float(q[action])
            found.append(
                Transition(
                    tuple(observations[t].tolist()),
                    action,
                    g,
                    discount,
                    tuple(observations[t + m].tolist()),
                    abs(delta),
                )
            )
        obs, _ = env.reset()
    env.close()
    return found[:count]


def assert_same(found: list[Transition], expected: list[Transition], tolerance: float) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        for name in Transition._fields:
            np.testing.assert_allclose(
                getattr(a, name), getattr(b, name), rtol=tolerance, atol=tolerance, err_msg=name
            )


@pytest.mark.parametrize(("vectorization", "autoreset"), WAYS)
@pytest.mark.parametrize(("n_step", "block_length"), [(1, 8), (3, 4), (5, 2)])
def test_blocks_hold_the_naive_collectors_transitions_each_exactly_once(
    vectorization: str, autoreset: str, n_step: int, block_length: int
) -> None:
    config = CONFIG.model_copy(
        update={
            "vectorization": vectorization,
            "autoreset": autoreset,
            "n_step": n_step,
            "block_length": block_length,
        }
    )
    played = play(config, num_envs=3, steps=60)
    assert sorted(played.blocks) == [0, 1, 2]
    for stream in range(3):
        found = played.transitions(stream)
        assert len(found) > 30
        assert_same(found, naive_transitions(config, SEED + stream, len(found)), 1e-5)


def test_every_way_of_stepping_gives_the_same_blocks_byte_for_byte() -> None:
    reference = play(CONFIG, num_envs=2, steps=50)
    for vectorization, autoreset in WAYS[1:]:
        config = CONFIG.model_copy(update={"vectorization": vectorization, "autoreset": autoreset})
        played = play(config, num_envs=2, steps=50)
        for stream, blocks in reference.blocks.items():
            # SAME_STEP takes less calls for the same rows: the shorter list is compared.
            pairs = list(zip(blocks, played.blocks[stream], strict=False))
            assert len(pairs) >= 10
            for a, b in pairs:
                for name in Blocks.__dataclass_fields__:
                    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)


@pytest.mark.parametrize(
    ("vectorization", "autoreset"),
    [*WAYS[:2], ("async", "same_step"), ("vector_entry_point", "next_step")],
)
def test_cartpole_gives_the_same_transitions_by_any_vector_class(
    vectorization: str, autoreset: str
) -> None:
    config = Config(
        vectorization=vectorization,  # type: ignore[arg-type]
        autoreset=autoreset,  # type: ignore[arg-type]
        env_kwargs={"max_episode_steps": 25},
        block_length=8,
    )
    played = play(config, 1, 300, q_function=cartpole_q_values)
    found = played.transitions(0)
    kinds = np.concatenate([insert.row_kind[0] for insert in played.blocks[0]]).tolist()
    expected = naive_transitions(config, SEED, len(found), cartpole_q_values)
    assert len(found) > 100
    # Some poles fall before their time is up.
    assert {RowKind.TERMINATED, RowKind.TRUNCATED} <= set(kinds)
    assert_same(found, expected, 1e-5)


def test_transitions_of_cartpoles_own_vector_class_obey_its_physics() -> None:
    config = Config(vectorization="vector_entry_point", n_step=1, block_length=8)
    vector = make_vector(config, 5)
    manifest = Manifest("run", config, spec_of(vector))
    rollout = Rollout(vector, manifest, cartpole_q_values, np.random.default_rng(0), SEED)
    complete = [blocks for _ in range(60) for blocks in rollout.step(np.full(5, 0.5))]
    vector.close()
    single = gym.make("CartPole-v1").unwrapped
    ends = 0
    for blocks in complete:
        for b, i in np.ndindex(len(blocks.action), config.block_length):
            if blocks.row_kind[b, i] & RowKind.LAST:
                continue
            single.reset()
            single.state = blocks.obs[b, i].astype(np.float64)
            obs, _, terminated, _, _ = single.step(int(blocks.action[b, i]))
            np.testing.assert_allclose(blocks.obs[b, i + 1], obs, atol=1e-4)
            assert bool(blocks.row_kind[b, i + 1] & RowKind.TERMINATED) == terminated
            ends += terminated
    assert ends > 5


@pytest.mark.parametrize(("vectorization", "autoreset"), WAYS[:2])
def test_rows_tell_the_action_and_the_reward_that_led_to_the_next_one(
    vectorization: str, autoreset: str
) -> None:
    """Random actions: the Ledger's observations say which of them it was given."""
    config = CONFIG.model_copy(update={"vectorization": vectorization, "autoreset": autoreset})
    played = play(config, num_envs=3, steps=60, epsilon=1.0)
    for insert in (i for stream in played.blocks.values() for i in stream):
        columns = (insert.obs[0], insert.action[0], insert.reward[0], insert.row_kind[0])
        rows = list(zip(*columns, strict=True))
        for (obs, action, reward, kind), (next_obs, _, _, next_kind) in pairwise(rows):
            seed, episode, step, _ = obs.tolist()
            if kind & RowKind.LAST:
                # Nothing was done at a final observation; the next row is another episode's first.
                assert (action, reward) == (0, 0.0)
                assert next_obs.tolist() == [seed, episode + 1, 0, -1]
                assert next_kind & RowKind.FIRST
            else:
                assert next_obs.tolist() == [seed, episode, step + 1, action]
                assert abs(reward) == 100 * episode + 10 * step + action
                assert not next_kind & RowKind.FIRST


@pytest.mark.parametrize(("vectorization", "autoreset"), WAYS[:2])
def test_counters_count_steps_that_were_taken_and_raw_returns(
    vectorization: str, autoreset: str
) -> None:
    """One environment, seed 40: episodes of 3, 1 and 5 steps of action 0. The raw rewards are
    0 + 10 + 20 = 30, then 100, then 200 + 210 + 220 + 230 + 240 = 1100."""
    config = CONFIG.model_copy(
        update={"vectorization": vectorization, "autoreset": autoreset, "reward_clip": 1.0}
    )
    # NEXT_STEP spends one more call for each reset but the first: 3 + 1 + 5 + 2.
    calls = 11 if autoreset == "next_step" else 9
    played = play(config, 1, calls, q_function=lambda obs: np.tile(_PREFER_0, (len(obs), 1)))
    assert played.rollout.env_steps == 9
    assert played.rollout.finished_lengths == [3, 1, 5]
    assert played.rollout.finished_returns == [30.0, 100.0, 1100.0]


_PREFER_0 = np.array([1.0, 0.0, 0.0], np.float32)


def test_clipping_changes_the_rewards_that_are_learned_from() -> None:
    config = CONFIG.model_copy(update={"reward_clip": 15.0})
    played = play(config, num_envs=2, steps=60)
    for stream in (0, 1):
        found = played.transitions(stream)
        assert_same(found, naive_transitions(config, SEED + stream, len(found)), 1e-5)
    rewards = [i.reward for blocks in played.blocks.values() for i in blocks]
    assert (np.min(rewards), np.max(rewards)) == (-15.0, 15.0)


def test_actions_count_from_zero_whatever_the_environment_calls_its_first() -> None:
    shifted = CONFIG.model_copy(update={"env_kwargs": {"first_action": -2}})
    expected = play(CONFIG, 2, 40, epsilon=0.5)
    found = play(shifted, 2, 40, epsilon=0.5)
    for stream in (0, 1):
        assert found.transitions(stream) == expected.transitions(stream)
