"""MinAtar's games in one loop play what Gymnasium's vector of the package's environment plays."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from common.config import Config
from common.environments import make_vector, probe_spec
from common.errors import EnvironmentFault
from common.minatar import GAMES
from common.spec import EnvSpec

pytest.importorskip("minatar", reason="the extra minatar is not installed")

Vector = VectorEnv[Any, Any, Any]

IDS = [f"MinAtar/{game.title().replace('_', '')}-v1" for game in GAMES]
NUM_ENVS = 4


def vector_of(env: str, vectorization: str, autoreset: str, **env_kwargs: Any) -> Vector:
    config = Config(
        env=env,
        vectorization=vectorization,  # type: ignore[arg-type]
        autoreset=autoreset,  # type: ignore[arg-type]
        env_kwargs=env_kwargs,
    )
    return make_vector(config, NUM_ENVS)


@pytest.fixture
def quiet_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package's environment imports it; no display may be needed for that.
    monkeypatch.setenv("MPLBACKEND", "agg")


@pytest.mark.usefixtures("quiet_matplotlib")
@pytest.mark.filterwarnings("ignore:.*The environment MinAtar/Breakout-v0 is out of date")
@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
@pytest.mark.parametrize("env", [*IDS, "MinAtar/Breakout-v0"])
def test_every_transition_is_that_of_the_packages_own_environment(env: str, autoreset: str) -> None:
    own = vector_of(env, "vector_entry_point", autoreset)
    reference = vector_of(env, "sync", autoreset)
    try:
        assert own.single_observation_space.shape == reference.single_observation_space.shape
        assert own.single_action_space == reference.single_action_space
        # Random play ends an episode every few dozen steps; freeway lasts 2,500.
        steps = 2_600 if "Freeway" in env else 600
        assert follow(own, reference, steps, seed=3) >= NUM_ENVS
        # A later reset without a seed goes on with the same random numbers; one with a seed begins
        # them anew, also in the middle of an episode.
        follow(own, reference, 40, seed=None)
        follow(own, reference, 40, seed=[7, 8, 7, 9])
    finally:
        own.close()
        reference.close()


def follow(own: Vector, reference: Vector, steps: int, seed: int | list[int] | None) -> int:
    """Plays both with the same random actions; returns the number of episodes that ended."""
    rng = np.random.default_rng(1)
    obs, info = own.reset(seed=seed)
    expected_obs, _ = reference.reset(seed=seed)
    np.testing.assert_array_equal(obs, expected_obs)
    ended = 0
    for _ in range(steps):
        action = rng.integers(own.single_action_space.n, size=NUM_ENVS)  # type: ignore[attr-defined]
        obs, reward, terminated, truncated, info = own.step(action)
        expected = reference.step(action)
        np.testing.assert_array_equal(obs, expected[0])
        np.testing.assert_array_equal(reward, expected[1])
        np.testing.assert_array_equal(terminated, expected[2])
        np.testing.assert_array_equal(truncated, expected[3])
        over = terminated | truncated
        assert ("final_obs" in info) == ("final_obs" in expected[4])
        if "final_obs" in info:
            np.testing.assert_array_equal(info["_final_obs"], expected[4]["_final_obs"])
            for i in np.flatnonzero(over):
                np.testing.assert_array_equal(info["final_obs"][i], expected[4]["final_obs"][i])
        ended += int(over.sum())
    return ended


@pytest.mark.usefixtures("quiet_matplotlib")
@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
def test_a_limit_truncates_as_gymnasiums_own_does(autoreset: str) -> None:
    """Random Breakout loses the ball after some ten steps, seldom before the eighth."""
    limit = {"max_episode_steps": 8}
    own = vector_of(IDS[1], "vector_entry_point", autoreset, **limit)
    reference = vector_of(IDS[1], "sync", autoreset, **limit)
    try:
        # Of an episode's 8 steps (and the one that begins the next).
        assert follow(own, reference, 300, seed=3) >= NUM_ENVS * 300 // 9
        follow(own, reference, 40, seed=[7, 8, 7, 9])
    finally:
        own.close()
        reference.close()


@pytest.mark.parametrize(
    ("env", "shape", "num_actions"),
    [
        ("MinAtar/Asterix-v1", (10, 10, 4), 5),
        ("MinAtar/Breakout-v1", (10, 10, 4), 3),
        ("MinAtar/Freeway-v1", (10, 10, 7), 3),
        ("MinAtar/Seaquest-v1", (10, 10, 10), 6),
        ("MinAtar/SpaceInvaders-v1", (10, 10, 6), 4),
        ("MinAtar/SpaceInvaders-v0", (10, 10, 6), 6),
    ],
)
@pytest.mark.filterwarnings("ignore:.*The environment MinAtar/SpaceInvaders-v0 is out of date")
def test_observations_are_planes_of_bits_and_v1_leaves_out_idle_actions(
    env: str, shape: tuple[int, ...], num_actions: int
) -> None:
    config = Config(env=env, vectorization="vector_entry_point")
    assert probe_spec(config) == EnvSpec(shape, "|b1", num_actions)


def test_returned_arrays_are_not_written_to_again() -> None:
    vector = vector_of("MinAtar/Breakout-v1", "vector_entry_point", "same_step")
    first, _ = vector.reset(seed=0)
    seen, kept = [first], [first.copy()]
    for _ in range(50):
        obs, _, _, _, info = vector.step(np.zeros(NUM_ENVS, np.int64))
        finals = [obs for obs in info.get("final_obs", ()) if obs is not None]
        seen += [obs, *finals]
        kept += [array.copy() for array in (obs, *finals)]
    vector.close()
    for array, copy in zip(seen, kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(("sticky", "obeyed"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_sticky_action_is_the_one_before(sticky: float, obeyed: float) -> None:
    """The paddle starts at column 4. Action 1 is left: after one step it is at 3, unless the first
    action, nothing, sticks."""
    vector = vector_of(
        "MinAtar/Breakout-v1", "vector_entry_point", "next_step", sticky_action_prob=sticky
    )
    vector.reset(seed=0)
    obs, *_ = vector.step(np.ones(NUM_ENVS, np.int64))
    vector.close()
    paddle = obs[:, 9, :, 0].argmax(axis=1)
    np.testing.assert_array_equal(paddle, np.full(NUM_ENVS, 4 - obeyed))


def test_an_actor_does_not_pay_for_the_drawing() -> None:
    code = """
import sys
from common.config import Config
from common.environments import make_vector
make_vector(Config(env="MinAtar/Breakout-v1", vectorization="vector_entry_point"), 1).close()
print([name for name in ("matplotlib", "seaborn") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("env_kwargs", "reason"),
    [
        ({"sticky_action_prob": 1.5}, "sticky_action_prob = 1.5: must be from 0 to 1"),
        ({"max_episode_steps": 0}, "max_episode_steps = 0: must be at least 1"),
        ({"sticky": 0.1}, "unexpected keyword argument 'sticky'"),
    ],
)
def test_impossible_arguments_are_refused(env_kwargs: dict[str, Any], reason: str) -> None:
    with pytest.raises(EnvironmentFault, match=reason):
        vector_of("MinAtar/Breakout-v1", "vector_entry_point", "next_step", **env_kwargs)
