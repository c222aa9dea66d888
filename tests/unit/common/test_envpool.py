"""EnvPool behind the interface of the other vector environments."""

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv

from common.config import Config
from common.environments import make_vector, probe_spec
from common.errors import EnvironmentFault
from common.spec import EnvSpec

pytestmark = [
    pytest.mark.envpool,
    pytest.mark.filterwarnings(
        # EnvPool's own spaces are float64 for observations of float32.
        "ignore:.*precision lowered by casting to float32:UserWarning"
    ),
]

Vector = VectorEnv[Any, Any, Any]

NUM_ENVS = 3


def config_for(env: str, **values: Any) -> Config:
    return Config(env=env, vectorization="envpool", **values)


def atari(env: str = "ALE/Breakout-v5", **values: Any) -> Config:
    return config_for(env, **{"resize": (84, 84), "greyscale": True, **values})


@pytest.fixture(autouse=True)
def _installed(request: pytest.FixtureRequest) -> None:
    if "without_envpool" not in request.fixturenames:
        pytest.importorskip("envpool", reason="the extra envpool is not installed")


@pytest.fixture
def without_envpool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def play(vector: Vector, seed: int | None, steps: int) -> list[Any]:
    """Everything that a vector environment returns on the way."""
    rng = np.random.default_rng(0)
    seen = [vector.reset(seed=seed)[0]]
    for _ in range(steps):
        action = rng.integers(vector.single_action_space.n, size=vector.num_envs)  # type: ignore[attr-defined]
        seen += vector.step(action)[:4]
    return seen


def assert_same(one: list[Any], other: list[Any]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_classic_task_has_gymnasiums_spaces_and_starts_over_with_the_next_step() -> None:
    config = config_for("CartPole-v1")
    assert probe_spec(config) == probe_spec(Config(env="CartPole-v1"))
    vector = make_vector(config, NUM_ENVS)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    obs, info = vector.reset(seed=0)
    assert (obs.shape, obs.dtype, info) == ((NUM_ENVS, 4), np.float32, {})
    ended = np.zeros(NUM_ENVS, np.bool_)
    for _ in range(100):
        before = ended
        obs, reward, ended, truncated, _ = vector.step(np.ones(NUM_ENVS, np.int64))
        # The step after the end ignores its action, is rewarded by nothing and brings the first
        # observation, which lies near the middle.
        assert not (ended & before).any()
        assert (reward[before] == 0.0).all()
        assert (np.abs(obs[before]) <= 0.05).all()
        # Pushing to the right for ever ends long before the limit of 500 steps.
        assert not truncated.any()
    vector.close()


def test_a_seed_repeats_an_episode_and_no_seed_goes_on() -> None:
    vector = make_vector(config_for("CartPole-v1"), NUM_ENVS)
    first = play(vector, seed=7, steps=40)
    more = play(vector, seed=None, steps=40)
    again = play(vector, seed=7, steps=40)
    neighbour = play(vector, seed=8, steps=40)
    vector.close()
    assert_same(first, again)
    assert not np.array_equal(first[0], more[0])
    # Environment i is seeded with seed + i.
    np.testing.assert_array_equal(first[0][1:], neighbour[0][:-1])


def test_the_step_limit_truncates() -> None:
    vector = make_vector(config_for("CartPole-v1", env_kwargs={"max_episode_steps": 5}), 1)
    vector.reset(seed=0)
    truncated = [bool(vector.step(np.array([i % 2]))[3][0]) for i in range(6)]
    vector.close()
    assert truncated == [False, False, False, False, True, False]


def test_atari_games_play_the_references_frames() -> None:
    """EnvPool begins with at least one no-op; with noop_max = 1 the reference plays just one, too.
    Their last frames differ: EnvPool shows the game over, Gymnasium the frame before."""
    pytest.importorskip("ale_py", reason="the extra atari is not installed")
    env_kwargs = {"noop_max": 1, "repeat_action_probability": 0.0}
    config = atari(env_kwargs=env_kwargs)
    own = make_vector(config, NUM_ENVS)
    reference = make_vector(config.model_copy(update={"vectorization": "sync"}), NUM_ENVS)
    obs, info = own.reset(seed=0)
    expected_obs, expected_info = reference.reset(seed=0)
    np.testing.assert_array_equal(obs, expected_obs)
    np.testing.assert_array_equal(info["lives"], expected_info["lives"])
    rng = np.random.default_rng(0)
    game_overs = 0
    for _ in range(400):
        action = rng.integers(4, size=NUM_ENVS)
        obs, reward, terminated, truncated, info = own.step(action)
        expected = reference.step(action)
        np.testing.assert_array_equal(obs[~terminated], expected[0][~terminated])
        np.testing.assert_array_equal(reward, expected[1])
        np.testing.assert_array_equal(terminated, expected[2])
        np.testing.assert_array_equal(truncated, expected[3])
        np.testing.assert_array_equal(info["lives"], expected[4]["lives"])
        game_overs += int(terminated.sum())
    assert game_overs >= NUM_ENVS
    own.close()
    reference.close()


def test_the_frame_cap_of_a_game_truncates_after_its_share_of_steps() -> None:
    # 42 frames are 10½ steps of 4: the 11th is the last.
    vector = make_vector(atari(env_kwargs={"max_num_frames_per_episode": 42}), 1)
    vector.reset(seed=0)
    truncated = [bool(vector.step(np.zeros(1, np.int64))[3][0]) for _ in range(12)]
    vector.close()
    assert truncated == [False] * 10 + [True, False]


def test_a_game_observes_one_grey_frame_of_the_size_asked_for() -> None:
    assert probe_spec(atari(resize=(80, 96))) == EnvSpec((80, 96), "|u1", 4)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (atari(resize=None), r"set resize, such as \[84, 84\], and greyscale = true"),
        (atari(greyscale=False), r"set resize, such as \[84, 84\], and greyscale = true"),
        (atari(env_kwargs={"maxpool": False}), "EnvPool always pools"),
        (atari(env_kwargs={"stack_num": 4}), "set frame_stack"),
        (atari("ALE/Pnog-v5"), "EnvPool has no ALE/Pnog-v5: did you mean ALE/Pong-v5?"),
        (config_for("CartPol-v1"), "EnvPool has no CartPol-v1: did you mean CartPole-v1?"),
        (config_for("CartPole-v1", greyscale=True), "EnvPool knows no obs_key, greyscale"),
        (config_for("CartPole-v1", env_kwargs={"colour": 3}), "colour"),
        (
            config_for("CartPole-v1", life_loss_ends_episode=True),
            r"does not tell its lives in info\['lives'\]",
        ),
    ],
)
def test_what_envpool_cannot_do_is_refused_with_what_to_do(config: Config, reason: str) -> None:
    with pytest.raises(EnvironmentFault, match=reason):
        probe_spec(config)


@pytest.mark.usefixtures("without_envpool")
def test_without_the_package_its_extra_is_named() -> None:
    with pytest.raises(EnvironmentFault, match=r"package envpool.*pip install .*\[envpool\]"):
        probe_spec(config_for("CartPole-v1"))
