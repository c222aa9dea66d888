"""Rollouts against a naive collector that plays one environment at a time, episode by episode."""

from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest

import common.manifest
from actor.blocks import Blocks
from actor.rollout import Rollout
from common.blocks import RowKind
from common.config import Config
from common.environments import make_vector, spec_of
from common.manifest import Manifest
from tests import collector
from tests.collector import Played, Transition, assert_same, collect, first_number, stacked

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


def play(
    config: Config, num_envs: int, calls: int, epsilon: float = 0.0, q_function: Any = q_values
) -> Played:
    """A Ledger's first number is its seed; a CartPole is alone."""
    stream_of = first_number if config.env == LEDGER else lambda _: SEED
    vector = make_vector(config, num_envs)
    return collector.play(
        vector, config, q_function, SEED, calls, epsilon=epsilon, stream_of=stream_of
    )


def naive_transitions(
    config: Config, seed: int, count: int, q_function: Any = q_values
) -> list[Transition]:
    env = gym.make(config.env, **config.env_kwargs)
    return collect(stacked(env, config), config, q_function, seed, count)


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
    played = play(config, num_envs=3, calls=60)
    assert sorted(played.blocks) == [SEED, SEED + 1, SEED + 2]
    for seed in played.blocks:
        found = played.transitions(seed)
        assert len(found) > 30
        assert_same(found, naive_transitions(config, seed, len(found)), 1e-5)


@pytest.mark.parametrize("manner", [{}, {"in_place": True}, {"chatty": True}], ids=str)
def test_every_way_of_stepping_gives_the_same_blocks_byte_for_byte(manner: dict[str, bool]) -> None:
    """Also where an environment begins the next episode in the array of the last observation, and
    where the infos of two do not match."""
    reference = play(CONFIG, num_envs=2, calls=50)
    for vectorization, autoreset in WAYS:
        changes = {"vectorization": vectorization, "autoreset": autoreset}
        config = CONFIG.model_copy(update={**changes, "env_kwargs": manner})
        played = play(config, num_envs=2, calls=50)
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
    found = played.transitions(SEED)
    kinds = np.concatenate([insert.row_kind[0] for insert in played.blocks[SEED]]).tolist()
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
    played = play(config, num_envs=3, calls=60, epsilon=1.0)
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
    assert played.rollout.finished == [(30.0, 3, 0), (100.0, 1, 0), (1100.0, 5, 0)]


_PREFER_0 = np.array([1.0, 0.0, 0.0], np.float32)


def test_clipping_changes_the_rewards_that_are_learned_from() -> None:
    config = CONFIG.model_copy(update={"reward_clip": 15.0})
    played = play(config, num_envs=2, calls=60)
    for seed in (SEED, SEED + 1):
        found = played.transitions(seed)
        assert_same(found, naive_transitions(config, seed, len(found)), 1e-5)
    rewards = [i.reward for blocks in played.blocks.values() for i in blocks]
    assert (np.min(rewards), np.max(rewards)) == (-15.0, 15.0)


def test_actions_count_from_zero_whatever_the_environment_calls_its_first() -> None:
    shifted = CONFIG.model_copy(update={"env_kwargs": {"first_action": -2}})
    expected = play(CONFIG, 2, 40, epsilon=0.5)
    found = play(shifted, 2, 40, epsilon=0.5)
    for seed in (SEED, SEED + 1):
        assert_same(found.transitions(seed), expected.transitions(seed))


def test_what_is_too_much_for_one_insert_is_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time all five environments complete a block, and two blocks may be sent at once."""
    config = Config(env="CartPole-v1", block_length=8, n_step=2, vectorization="sync")

    def stepped() -> list[Blocks]:
        vector = make_vector(config, 5)
        manifest = Manifest("run", config, spec_of(vector))
        rollout = Rollout(vector, manifest, cartpole_q_values, np.random.default_rng(3), seed=SEED)
        found = [blocks for _ in range(40) for blocks in rollout.step(np.zeros(5))]
        vector.close()
        return found

    whole = stepped()
    block = (8 + 2) * 4 * 4
    monkeypatch.setattr(common.manifest, "MAX_INSERT_BYTES", 3 * block - 1)
    parts = stepped()
    assert {len(blocks.action) for blocks in whole} == {5}
    assert [len(blocks.action) for blocks in parts] == [2, 2, 1] * len(whole)
    for name in Blocks.__dataclass_fields__:
        together = [np.concatenate([getattr(b, name) for b in found]) for found in (whole, parts)]
        np.testing.assert_array_equal(*together)
