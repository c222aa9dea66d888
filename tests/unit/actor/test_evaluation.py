"""Greedy episodes: every environment plays its share, every return and length is exact."""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest

import actor.evaluation
from actor.acting_policy import Interrupted
from actor.evaluation import GreedyEvaluation
from common.config import Config
from common.environments import probe_spec
from common.errors import EnvironmentFault, HeadUnreachable, NonFiniteLoss
from common.spec import EnvSpec
from tests.environments import EPISODES, Ledger

LEDGER = "tests.environments:Ledger-v0"
ACTIONS = 3
LONG_LAST = [(1, "terminated")] * 9 + [(100, "truncated")]

Played = list[tuple[float, int]]
"""Return and length of each episode, sorted."""


def by_step(obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Q-values of a Ledger's observations: the best action is the step modulo ACTIONS."""
    assert obs.dtype == np.float32
    assert obs.flags.c_contiguous
    q_values: npt.NDArray[np.float32] = np.eye(ACTIONS, dtype=np.float32)[
        obs[:, 2].astype(int) % ACTIONS
    ]
    return q_values


def alone(seed: int, share: int, **kwargs: Any) -> Played:
    """What one environment plays by itself: its first `share` episodes."""
    env, played = Ledger(**kwargs), []
    first = kwargs.get("first_action", 0)
    for episode in range(share):
        env.reset(seed=seed if episode == 0 else None)
        total, steps, over = 0.0, 0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(first + steps % ACTIONS)
            total, steps, over = total + reward, steps + 1, terminated or truncated
        played.append((total, steps))
    return played


def evaluation(episodes: int, **changes: Any) -> GreedyEvaluation:
    config = Config(**{"env": LEDGER, **changes})
    return GreedyEvaluation(config, probe_spec(config), episodes)


def played(greedy: GreedyEvaluation, seed: int) -> Played:
    returns, lengths = greedy.run(by_step, seed)
    assert (returns.dtype.str, lengths.dtype.str) == ("<f4", "<i4")
    return sorted(zip(returns.tolist(), lengths.tolist(), strict=True))


@pytest.fixture
def two_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor.evaluation, "MAX_ENVS", 2)


@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
@pytest.mark.parametrize("episodes", [1, 4, 7])
def test_an_episode_for_each_environment(episodes: int, autoreset: str) -> None:
    """Sub-environment i has seed 20 + i; odd ones earn negative rewards."""
    greedy = evaluation(episodes, autoreset=autoreset)
    expected = sorted(alone(20 + i, 1)[0] for i in range(episodes))
    assert played(greedy, seed=20) == expected
    greedy.close()


@pytest.mark.usefixtures("two_environments")
@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
@pytest.mark.parametrize(("episodes", "shares"), [(4, (2, 2)), (5, (3, 2)), (11, (6, 5))])
def test_more_episodes_than_environments(
    episodes: int, shares: tuple[int, int], autoreset: str
) -> None:
    greedy = evaluation(episodes, autoreset=autoreset, env_kwargs={"first_action": 5})
    expected = sorted(
        episode
        for i, share in enumerate(shares)
        for episode in alone(20 + i, share, first_action=5)
    )
    assert played(greedy, seed=20) == expected
    greedy.close()


@pytest.mark.usefixtures("two_environments")
@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
def test_short_episodes_are_not_favoured(autoreset: str) -> None:
    """Seed 9 begins with the long episode, seed 10 with nine short ones: the first four episodes to
    finish are all short."""
    greedy = evaluation(4, autoreset=autoreset, env_kwargs={"episodes": LONG_LAST})
    assert [length for _, length in played(greedy, seed=9)].count(100) == 1
    assert played(greedy, seed=9) == sorted(
        alone(9, 2, episodes=LONG_LAST) + alone(10, 2, episodes=LONG_LAST)
    )
    greedy.close()


def test_environments_in_processes_are_no_more_than_an_actor_has() -> None:
    greedy = evaluation(3, vectorization="async", envs_per_actor=2)
    assert played(greedy, seed=20) == sorted(alone(20, 2) + alone(21, 1))
    greedy.close()


@pytest.mark.usefixtures("two_environments")
def test_an_evaluation_leaves_nothing_behind_for_the_next() -> None:
    greedy = evaluation(3)
    first = played(greedy, seed=20)
    assert played(greedy, seed=21) != first
    assert played(greedy, seed=20) == first
    greedy.close()


def test_an_environments_own_vector_class() -> None:
    """CartPole pushed to the left for ever, against the same vector stepped by hand."""
    config = Config(env="CartPole-v1", vectorization="vector_entry_point")
    greedy = GreedyEvaluation(config, probe_spec(config), 5)
    returns, lengths = greedy.run(lambda obs: np.array([[1.0, 0.0]] * len(obs), np.float32), seed=3)
    greedy.close()

    vector = gym.make_vec("CartPole-v1", num_envs=5, vectorization_mode="vector_entry_point")
    vector.reset(seed=3)
    first_end: dict[int, int] = {}
    for step in range(1, 50):
        _, _, terminated, _, _ = vector.step(np.zeros(5, np.int64))
        for i in np.flatnonzero(terminated).tolist():
            first_end.setdefault(i, step)
    vector.close()
    assert sorted(lengths.tolist()) == sorted(first_end.values())
    assert returns.tolist() == lengths.tolist()  # 1 for every step.


@pytest.mark.parametrize(("steps", "said"), [(100, 1), (101, 0)])
def test_an_episode_that_may_never_end_is_mentioned_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, steps: int, said: int
) -> None:
    monkeypatch.setattr(actor.evaluation, "LONG_EPISODE_STEPS", steps)
    greedy = evaluation(2, env_kwargs={"episodes": [(100, "truncated")]})
    for _ in range(2):
        played(greedy, seed=20)
    greedy.close()
    found = [r.getMessage() for r in caplog.records if "max_episode_steps" in r.getMessage()]
    assert len(found) == said
    assert all(f"{LEDGER} has lasted 100 steps" in line for line in found)


def test_whoever_says_no_is_asked_at_every_step_and_heard() -> None:
    greedy, answers = evaluation(4), [False, True, True]
    with pytest.raises(Interrupted):
        greedy.run(by_step, 20, lambda: answers.pop())
    assert answers == []
    # What was begun does not count in the next evaluation.
    assert played(greedy, seed=20) == sorted(alone(20 + i, 1)[0] for i in range(4))
    greedy.close()


def test_it_asks_once_for_each_step_of_the_longest_episode() -> None:
    longest = max(length for length, _ in EPISODES)
    # One answer too few, and the last step asks in vain; one too many, and it is left over.
    greedy, answers = evaluation(len(EPISODES)), [True] * longest
    greedy.run(by_step, 20, lambda: answers.pop())
    assert answers == []
    greedy.close()


def test_no_values_are_computed_for_whoever_has_played_its_share() -> None:
    lengths = sorted(length for length, _ in EPISODES)
    greedy, asked = evaluation(len(EPISODES)), []

    def counted(obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        asked.append(len(obs))
        return by_step(obs)

    greedy.run(counted, 20)
    assert asked == [sum(length > step for length in lengths) for step in range(lengths[-1])]
    greedy.close()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (EnvSpec((5,), "<f4", ACTIONS), r"\(4,\) and 3 actions here, \(5,\) and 3 in the run"),
        (EnvSpec((4,), "<f4", 2), r"\(4,\) and 3 actions here, \(4,\) and 2 in the run"),
    ],
)
def test_another_environment_than_the_runs_is_refused(spec: EnvSpec, said: str) -> None:
    with pytest.raises(EnvironmentFault, match=f"has observations of shape {said}: give it"):
        GreedyEvaluation(Config(env=LEDGER), spec, 2)


@pytest.mark.parametrize("fault", ["reset raises", "step raises"])
def test_an_environment_that_raises_is_named(fault: str) -> None:
    config = Config(env="tests.faulty:Faulty-v0", env_kwargs={"fault": fault})
    greedy = GreedyEvaluation(config, probe_spec(config), 2)
    with pytest.raises(EnvironmentFault, match=r"Faulty-v0 raised .*RuntimeError: the simulator"):
        greedy.run(lambda obs: np.zeros((len(obs), 2), np.float32), seed=0)
    greedy.close()


def test_an_environment_is_not_blamed_for_the_network() -> None:
    greedy = evaluation(2)

    def diverged(obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        raise NonFiniteLoss("the network of version 7 gives Q-values of NaN or ∞")

    with pytest.raises(NonFiniteLoss, match="version 7"):
        greedy.run(diverged, seed=0)
    greedy.close()


def test_an_environment_is_not_blamed_for_the_head() -> None:
    greedy = evaluation(2)

    def head_is_gone() -> bool:
        raise HeadUnreachable("the head has been silent for 60 s: giving up")

    with pytest.raises(HeadUnreachable, match="silent"):
        greedy.run(by_step, 0, head_is_gone)
    greedy.close()
