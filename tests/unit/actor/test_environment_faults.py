"""Environments that break their promises end in one line that names them."""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv

from actor.rollout import Rollout
from common.config import Config
from common.environments import make_vector, spec_of
from common.errors import EnvironmentFault
from common.manifest import Manifest
from common.spec import EnvSpec

FAULTY = "tests.environments:Faulty-v0"


def no_preference(obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.zeros((len(obs), 2), np.float32)


def play(config: Config, steps: int) -> None:
    vector = make_vector(config, 2)
    try:
        manifest = Manifest("run", config, spec_of(vector))
        rollout = Rollout(vector, manifest, no_preference, np.random.default_rng(0), seed=0)
        for _ in range(steps):
            rollout.step(np.zeros(2))
    finally:
        vector.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("reset raises", "raised in reset after 0 steps .* the simulator has no licence"),
        ("first observation is NaN", "observation that is not finite"),
        ("step raises", "raised in step after 4 steps .* the simulator fell over"),
        ("observation is NaN", r"observation that is not finite \(environment 0"),
        ("observation is infinite", "observation that is not finite"),
        ("observation is too large", "observation that is not finite"),
        ("observation has another shape", "raised in step"),
        ("reward is NaN", "reward that is not finite: nan"),
        ("reward is infinite", "reward that is not finite: -inf"),
        ("reward is too large", "reward that is not finite"),
    ],
)
@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
def test_a_faulty_environment_is_named_with_what_it_did(
    fault: str, reason: str, autoreset: str
) -> None:
    config = Config(env=FAULTY, env_kwargs={"fault": fault, "after": 2}, autoreset=autoreset)  # type: ignore[arg-type]
    with pytest.raises(EnvironmentFault, match=reason) as caught:
        play(config, 5)
    assert FAULTY in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning:gymnasium")
def test_an_environment_that_raises_in_its_own_process_is_named_too() -> None:
    config = Config(env=FAULTY, env_kwargs={"fault": "step raises"}, vectorization="async")
    with pytest.raises(EnvironmentFault, match="the simulator fell over") as caught:
        play(config, 5)
    assert FAULTY in str(caught.value)


class OddVector(VectorEnv[Any, Any, Any]):
    """A vector class of somebody's own that breaks its promises on the second step."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, obs_size: int = 2, ends: bool = False) -> None:
        self.num_envs = 2
        self.single_observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.single_action_space = gym.spaces.Discrete(2)
        self._obs_size, self._ends = obs_size, ends

    def reset(self, **_: Any) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        return np.zeros((2, 2), np.float32), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs = np.zeros((2, self._obs_size), np.float32)
        return obs, np.zeros(2), np.full(2, self._ends), np.zeros(2, np.bool_), {}


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        (OddVector(obs_size=3), r"observations of shape \(3,\), its space says \(2,\)"),
        (OddVector(ends=True), r"ended an episode without info\['final_obs'\]"),
    ],
)
def test_a_vector_class_that_breaks_its_promise_is_named(vector: OddVector, reason: str) -> None:
    manifest = Manifest("run", Config(env="odd:Vector-v0"), EnvSpec((2,), "<f4", 2))
    rollout = Rollout(vector, manifest, no_preference, np.random.default_rng(0), seed=0)
    with pytest.raises(EnvironmentFault, match=f"odd:Vector-v0 .*{reason}"):
        rollout.step(np.zeros(2))
