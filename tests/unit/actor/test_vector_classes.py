"""What a vector class of somebody's own returns is taken in any form that says the same and refused
in any other, by actors and evaluations alike."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from actor.evaluation import GreedyEvaluation
from actor.rollout import Rollout
from common.config import Config
from common.environments import spec_of
from common.errors import EnvironmentFault
from common.manifest import Manifest

NUM_ENVS = 3
VALUES = ("obs", "reward", "terminated", "truncated")
Form = Callable[[npt.NDArray[Any]], Any]


class Countdown(VectorEnv[Any, Any, Any]):
    """Three environments, whose episodes are 2, 3 and 4 steps long and earn as much; the second's
    are truncated.

    Args:
        changed: which of VALUES it returns in another form.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, changed: str, form: Form) -> None:
        self.num_envs = NUM_ENVS
        self.single_observation_space = gym.spaces.Box(0.0, 9.0, (2,), np.float32)
        self.single_action_space = gym.spaces.Discrete(2)
        self._changed, self._form = VALUES.index(changed), form
        self._lengths = np.array([2, 3, 4])

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        self._left = self._lengths.copy()
        return self._told(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        over = self._left == 0
        self._left = np.where(over, self._lengths, self._left - 1)
        ended, is_second = self._left == 0, np.arange(NUM_ENVS) == 1
        values: list[Any] = [self._told(), 1.0 - over, ended & ~is_second, ended & is_second]
        values[self._changed] = self._form(values[self._changed])
        return values[0], values[1], values[2], values[3], {}

    def _told(self) -> npt.NDArray[np.float32]:
        return np.stack([self._left, self._lengths], axis=1).astype(np.float32)


def no_preference(obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.zeros((len(obs), 2), np.float32)


def act(vector: Countdown) -> set[tuple[Any, ...]]:
    """Return, length and environment of the episodes of eleven steps, from an actor."""
    config = Config(env="odd:Vector-v0", block_length=4)
    manifest = Manifest("run", config, spec_of(vector))
    rollout = Rollout(vector, manifest, no_preference, np.random.default_rng(0), 0)
    for _ in range(11):
        rollout.step(np.zeros(NUM_ENVS))
    return {tuple(episode) for episode in rollout.finished}


def evaluate(vector: Countdown) -> set[tuple[Any, ...]]:
    """The same, of one episode for each environment; which it was, its length tells."""
    greedy = GreedyEvaluation(Config(env="odd:Vector-v0"), spec_of(vector), NUM_ENVS, vector)
    asked = iter(range(11))
    returns, lengths = greedy.run(no_preference, 0, lambda: next(asked, None) is not None)
    return {(r, n, n - 2) for r, n in zip(returns.tolist(), lengths.tolist(), strict=True)}


@pytest.mark.parametrize("play", [act, evaluate])
@pytest.mark.parametrize("changed", VALUES)
@pytest.mark.parametrize(
    "form",
    [
        lambda array: array.astype(np.uint8),
        lambda array: array.astype(np.float16),
        lambda array: array.tolist(),
        torch.from_numpy,
    ],
    ids=["uint8", "float16", "list", "tensor"],
)
def test_the_same_numbers_in_another_form_are_taken(
    play: Callable[[Countdown], Any], changed: str, form: Form
) -> None:
    assert play(Countdown(changed, form)) == {(2.0, 2, 0), (3.0, 3, 1), (4.0, 4, 2)}


@pytest.mark.parametrize("play", [act, evaluate])
@pytest.mark.parametrize(
    ("changed", "form", "what"),
    [
        ("obs", lambda a: a[:2], "observations of shape (2, 2), its space says (3, 2)"),
        ("obs", lambda a: a.astype("U"), "observations of <U32: must be numbers"),
        ("reward", lambda a: a[:, None], "rewards of shape (3, 1): must be (3,)"),
        ("reward", lambda a: a[:2], "rewards of shape (2,): must be (3,)"),
        ("reward", lambda _: 1.0, "rewards of shape (): must be (3,)"),
        ("reward", lambda a: a.astype("U"), "rewards of <U32: must be numbers"),
        ("reward", lambda _: [None] * 3, "rewards of object: must be numbers"),
        ("terminated", lambda a: a[:, None], "terminated of shape (3, 1): must be (3,)"),
        ("terminated", lambda a: a[:1], "terminated of shape (1,): must be (3,)"),
        ("terminated", lambda _: False, "terminated of shape (): must be (3,)"),
        ("truncated", lambda a: a[:2], "truncated of shape (2,): must be (3,)"),
        ("truncated", lambda _: [0, 2, 0], "truncated = 2: must be true or false"),
        ("truncated", lambda _: [0.0, np.nan, 0.0], "truncated = nan: must be true or false"),
    ],
)
def test_anything_else_is_refused_in_one_line(
    play: Callable[[Countdown], Any], changed: str, form: Form, what: str
) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        play(Countdown(changed, form))
    which = "environment 1, seed 1" if " = " in what else "one of its environments"
    assert str(caught.value) == f"odd:Vector-v0 returned {what} ({which}, step 1)"


@pytest.mark.parametrize("play", [act, evaluate])
def test_what_numpy_makes_no_array_of_is_said_in_its_words(
    play: Callable[[Countdown], Any],
) -> None:
    vector = Countdown("reward", lambda array: torch.from_numpy(array).requires_grad_())
    with pytest.raises(EnvironmentFault, match=r"raised in step: RuntimeError: .*requires grad"):
        play(vector)
