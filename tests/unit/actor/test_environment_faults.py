"""Environments that break their promises end in one line that names them: which of them it was, its
seed and its step."""

import logging
import multiprocessing
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv

from actor.evaluation import GreedyEvaluation
from actor.rollout import Rollout
from common.call_cells import ALL
from common.config import Config
from common.environments import make_vector, spec_of
from common.errors import EnvironmentFault
from common.manifest import Manifest
from common.spec import EnvSpec
from tests.faulty import FAULTY

SEED = 10
SPEC = EnvSpec((2,), "<f4", 2)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:gymnasium")


def no_preference(obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.zeros((len(obs), 2), np.float32)


def config_of(fault: str, **changes: Any) -> Config:
    """Of three environments the second does it, in its third step."""
    kwargs = {"fault": fault, "after": 2, "seeds": [SEED + 1]}
    return Config(**{"env": FAULTY, "env_kwargs": kwargs, **changes})


def act(config: Config, steps: int = 5) -> None:
    """As an actor whose environments begin at 40 on the ε ladder."""
    vector = make_vector(config, 3, first_env_index=40)
    try:
        manifest = Manifest("run", config, SPEC)
        rollout = Rollout(vector, manifest, no_preference, np.random.default_rng(0), SEED)
        for _ in range(steps):
            rollout.step(np.zeros(3))
    finally:
        vector.close()


def evaluate(config: Config) -> None:
    greedy = GreedyEvaluation(config, SPEC, 3, make_vector(config, 3))
    try:
        greedy.run(no_preference, SEED)
    finally:
        greedy.close()


THIRD_STEP = "seed 11, step 3, 3 of its episode"
FAULTS = [
    ("step raises", "raised in step: RuntimeError: the simulator fell over", THIRD_STEP),
    ("step exits", "raised in step: SystemExit: 0", THIRD_STEP),
    (
        "reset raises",
        "raised in reset: RuntimeError: the simulator has no licence",
        "seed 11, step 0, 0 of its episode",
    ),
    (
        "first observation is NaN",
        "returned an observation that is not finite",
        "seed 11, step 0, 0 of its episode",
    ),
    ("observation is NaN", "returned an observation that is not finite", THIRD_STEP),
    ("observation is infinite", "returned an observation that is not finite", THIRD_STEP),
    ("observation is too large", "returned an observation that is not finite", THIRD_STEP),
    (
        "observation has another shape",
        "returned an observation of shape (3,), its space says (2,)",
        THIRD_STEP,
    ),
    # As many numbers: a process's shared memory would take them.
    (
        "observation is a column",
        "returned an observation of shape (2, 1), its space says (2,)",
        THIRD_STEP,
    ),
    (
        "observation is complex",
        "returned an observation of complex128, its space says float64",
        THIRD_STEP,
    ),
    ("observation is text", "returned an observation of <U1, its space says float64", THIRD_STEP),
    ("observation is uneven", "returned an observation that is no array", THIRD_STEP),
    (
        "observation is missing",
        "returned an observation of shape (), its space says (2,)",
        THIRD_STEP,
    ),
    ("reward is NaN", "returned a reward that is not finite: nan", THIRD_STEP),
    ("reward is infinite", "returned a reward that is not finite: -inf", THIRD_STEP),
    ("reward is too large", "returned a reward that is not finite: 1e+300", THIRD_STEP),
    ("reward is missing", "returned a reward that is no number: None", THIRD_STEP),
    ("reward is a list", "returned a reward that is no number: [1.0]", THIRD_STEP),
    ("reward is an array", "returned a reward that is no number: array([1.])", THIRD_STEP),
    ("reward is text", "returned a reward that is no number: '1.0'", THIRD_STEP),
    ("terminated is missing", "returned terminated = None: must be true or false", THIRD_STEP),
    ("terminated is two", "returned terminated = 2: must be true or false", THIRD_STEP),
    ("terminated is NaN", "returned terminated = nan: must be true or false", THIRD_STEP),
    ("truncated is text", "returned truncated = 'no': must be true or false", THIRD_STEP),
    ("info is missing", "returned an info that is no dictionary: None", THIRD_STEP),
    (
        "values are missing",
        "raised in step: ValueError: not enough values to unpack (expected 5, got 4)",
        THIRD_STEP,
    ),
]


@pytest.mark.parametrize(("fault", "what", "when"), FAULTS, ids=[fault for fault, *_ in FAULTS])
@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
def test_an_environment_is_named_with_what_it_did(
    fault: str, what: str, when: str, autoreset: str
) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        act(config_of(fault, autoreset=autoreset))
    expected = f"{FAULTY} {what}"
    message = str(caught.value)
    assert message[: len(expected)] == expected
    # Of three environments from 40 on, the second is the 41st on the ladder.
    assert message.endswith(f" (environment 1, 41 on the ladder, {when})")


@pytest.mark.parametrize(("fault", "what", "when"), FAULTS, ids=[fault for fault, *_ in FAULTS])
def test_an_evaluation_names_it_as_well(fault: str, what: str, when: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        evaluate(config_of(fault))
    message = str(caught.value)
    assert message.startswith(f"{FAULTY} {what}")
    assert message.endswith(f" (environment 1, {when})")


def test_a_reward_that_nobody_could_learn_from_is_a_fault_unless_it_is_clipped() -> None:
    fault = "reward is larger than any learner takes"
    with pytest.raises(EnvironmentFault) as caught:
        act(config_of(fault))
    assert str(caught.value) == (
        f"{FAULTY} returned a reward of 3e+38, beyond ±1e+12: scale it, or set reward_clip "
        f"(environment 1, 41 on the ladder, {THIRD_STEP})"
    )
    act(config_of(fault, reward_clip=1.0))


IN_PROCESSES = [
    *(
        case for case in FAULTS
        if case[0] in (
            "step raises", "step exits", "reset raises", "observation is a column",
            "reward is a list", "terminated is missing",
        )
    ),
    # How long its episode was, its process alone knows, and has not been asked.
    ("observation is NaN", "returned an observation that is not finite", "seed 11, step 3"),
    ("reward is infinite", "returned a reward that is not finite: -inf", "seed 11, step 3"),
    ("step is killed", "had its process killed by signal 9 in step", "seed 11, step 3"),
    ("step crashes", "had its process killed by signal 11 in step", "seed 11, step 3"),
    ("step ends its process", "ended its process with exit code 0 in step", "seed 11, step 3"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "what", "when"), IN_PROCESSES, ids=[fault for fault, *_ in IN_PROCESSES]
)
def test_an_environment_in_a_process_of_its_own_is_named_too(
    fault: str, what: str, when: str
) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        act(config_of(fault, vectorization="async"))
    message = str(caught.value)
    assert message.startswith(f"{FAULTY} {what}")
    assert message.endswith(f" (environment 1, 41 on the ladder, {when})")
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_that_cannot_be_made_is_named(vectorization: str) -> None:
    config = config_of("make raises", vectorization=vectorization)
    with pytest.raises(EnvironmentFault) as caught:
        act(config)
    message = str(caught.value)
    assert message.startswith(f"cannot make {FAULTY} with ")
    assert message.endswith(
        "RuntimeError: the simulator has no licence (environment 0, 40 on the ladder, step 0)"
    )


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_nobody_is_named_where_nobody_knows_which_it_was(vectorization: str) -> None:
    vector = make_vector(config_of("", vectorization=vectorization), 3)
    vector.reset(seed=SEED)
    vector.step(np.zeros(3, np.int64))
    fault = vector.fault(ALL, "did not tell its lives")
    vector.close()
    assert str(fault) == f"{FAULTY} did not tell its lives (one of its environments, step 1)"


def test_an_environment_that_cannot_be_made_in_its_own_process_is_named() -> None:
    # One is made in the actor's process first, to see what its spaces are: that one goes well.
    kwargs = {"fault": "make raises", "worker": 1}
    config = Config(env=FAULTY, env_kwargs=kwargs, vectorization="async")
    with pytest.raises(EnvironmentFault) as caught:
        act(config)
    assert str(caught.value) == (
        f"{FAULTY} cannot be made: RuntimeError: the simulator has no licence "
        "(environment 1, 41 on the ladder, step 0)"
    )
    del caught
    assert not multiprocessing.active_children()


def test_a_fault_in_close_is_a_warning_and_the_others_are_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Environments 0 and 1; the third has another seed.
    kwargs = {"fault": "close raises", "seeds": [SEED, SEED + 1]}
    with caplog.at_level(logging.WARNING):
        act(Config(env=FAULTY, env_kwargs=kwargs), steps=4)
    assert [record.getMessage() for record in caplog.records] == [
        "an environment raised in close: RuntimeError: the simulator is stuck "
        f"(environment {i}, seed {SEED + i}, step 4, 4 of its episode)"
        for i in (0, 1)
    ]


class Integers(gym.Env[Any, int]):
    """Observes numbers from 0 to 9, it says; in the second step one of `dtype` and `value`."""

    observation_space = gym.spaces.Box(0, 9, (2,), np.int32)
    action_space = gym.spaces.Discrete(2)  # type: ignore[assignment]

    def __init__(self, dtype: str, value: int) -> None:
        self._observations = [np.zeros(2, dtype), np.array([3, value], dtype)]

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return self._observations[0], {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._observations[1], 0.0, False, False, {}


@pytest.mark.parametrize(
    ("dtype", "value", "what"),
    [
        ("i4", 9, None),
        ("u8", 9, None),  # Another kind of integer with a value that both have.
        ("u8", 1 << 40, "from 3 to 1099511627776, its space's int32 cannot hold that"),
        # 300 modulo 256 would have been stored: the replay keeps 0 … 9 as uint8.
        ("i4", 300, "from 3 to 300, outside of its space"),
        ("i4", -1, "from -1 to 3, outside of its space"),
    ],
)
def test_integers_that_would_be_stored_as_others_are_refused(
    monkeypatch: pytest.MonkeyPatch, dtype: str, value: int, what: str | None
) -> None:
    spec = gym.envs.registration.EnvSpec("Integers-v0", Integers, disable_env_checker=True)
    monkeypatch.setitem(gym.registry, "Integers-v0", spec)
    config = Config(env="Integers-v0", env_kwargs={"dtype": dtype, "value": value})
    vector = make_vector(config, 1)
    manifest = Manifest("run", config, spec_of(vector))
    assert manifest.spec.dtype == np.uint8
    rollout = Rollout(vector, manifest, no_preference, np.random.default_rng(0), 0)
    if what is None:
        rollout.step(np.zeros(1))
    else:
        with pytest.raises(EnvironmentFault, match=f"observation {what} .environment 0, seed 0,"):
            rollout.step(np.zeros(1))
    vector.close()


class OddVector(VectorEnv[Any, Any, Any]):
    """A vector class of somebody's own that breaks its promises on the second step."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self, obs_size: int = 2, ends: bool = False, nan: bool = False, raises: bool = False
    ) -> None:
        self.num_envs = 2
        self.single_observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.single_action_space = gym.spaces.Discrete(2)
        self._obs_size, self._ends, self._nan, self._raises = obs_size, ends, nan, raises

    def reset(self, **_: Any) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        return np.zeros((2, 2), np.float32), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self._raises:
            raise RuntimeError("the simulator fell over")
        obs = np.zeros((2, self._obs_size), np.float32)
        obs[1, 0] = np.nan if self._nan else 0.0
        return obs, np.zeros(2), np.full(2, self._ends), np.zeros(2, np.bool_), {}


@pytest.mark.parametrize(
    ("vector", "what", "which"),
    [
        (
            OddVector(obs_size=3),
            "returned observations of shape (2, 3), its space says (2, 2)",
            "one of its environments, step 1",
        ),
        (
            OddVector(ends=True),
            "ended an episode without info['final_obs']",
            "environment 0, seed 10, step 1",
        ),
        (
            OddVector(nan=True),
            "returned an observation that is not finite",
            "environment 1, seed 11, step 1",
        ),
        # Nobody but the class itself knows which.
        (
            OddVector(raises=True),
            "raised in step: RuntimeError: the simulator fell over",
            "one of its environments, step 1",
        ),
    ],
)
def test_a_vector_class_that_breaks_its_promise_is_named(
    vector: OddVector, what: str, which: str
) -> None:
    manifest = Manifest("run", Config(env="odd:Vector-v0"), SPEC)
    rollout = Rollout(vector, manifest, no_preference, np.random.default_rng(0), SEED)
    with pytest.raises(EnvironmentFault) as caught:
        rollout.step(np.zeros(2))
    assert str(caught.value) == f"odd:Vector-v0 {what} ({which})"
