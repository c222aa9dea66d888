"""Environments by id: which spaces are taken, how they are stored, and how refusals read."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from common.config import Config
from common.environments import (
    action_offset,
    autoreset_mode,
    make_vector,
    probe_spec,
    spec_of,
)
from common.errors import EnvironmentFault
from common.networks import build_network
from common.spec import EnvSpec
from tests.environments import SilentAutoreset

SPACES = "tests.environments:Spaces-v0"


def config_for(
    observations: gym.Space[Any] | None = None, actions: gym.Space[Any] | None = None
) -> Config:
    return Config(env=SPACES, env_kwargs={"observations": observations, "actions": actions})


def box(low: Any, high: Any, shape: tuple[int, ...], dtype: Any) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        # Boxes keep their shape; floats keep their precision, but no more than the network has.
        (box(-1, 1, (3,), np.float32), (3,), "<f4"),
        (box(-1, 1, (3,), np.float64), (3,), "<f4"),
        (box(-1, 1, (3,), np.float16), (3,), "<f2"),
        (box(-np.inf, np.inf, (2, 3, 4), np.float32), (2, 3, 4), "<f4"),
        (box(-1, 1, (), np.float32), (), "<f4"),
        # Integers shrink to their range, which loses nothing.
        (box(0, 255, (8, 8), np.uint8), (8, 8), "|u1"),
        (box(0, 255, (2,), np.int64), (2,), "|u1"),
        (box(-1, 100, (2,), np.int32), (2,), "|i1"),
        (box(-200, 100, (2,), np.int32), (2,), "<i2"),
        (box(0, 70_000, (2,), np.int64), (2,), "<u4"),
        (box(-1, 70_000, (2,), np.int64), (2,), "<i4"),
        (box(-(2**40), 2**40, (2,), np.int64), (2,), "<i8"),
        (box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64), (2,), "<i8"),
        (box(-1, np.iinfo(np.int32).max, (2,), np.int32), (2,), "<i4"),
        (box(0, 2**64 - 1, (2,), np.uint64), (2,), "<u8"),
        (box(-128, 255, (2,), np.int16), (2,), "<i2"),
        (box(0, 1, (2,), np.bool_), (2,), "|b1"),
        # Images too, but uint8 says pixels, which networks divide by 255.
        (box(0, 1, (10, 10, 4), np.int64), (10, 10, 4), "|i1"),
        (box(0, 255, (8, 8), np.int32), (8, 8), "<u2"),
        (box(-1, 255, (8, 8), np.int64), (8, 8), "<i2"),
        (box(0, 255, (8, 8), np.uint16), (8, 8), "<u2"),
        # One-hot: 5 numbers; 2 + 3 numbers. Bits: as they are.
        (spaces.Discrete(5), (5,), "|u1"),
        (spaces.Discrete(5, start=-2), (5,), "|u1"),
        (spaces.MultiDiscrete([2, 3]), (5,), "|u1"),
        (spaces.MultiBinary(4), (4,), "|i1"),
        (spaces.MultiBinary((2, 3)), (6,), "|i1"),
        # Compounds are flattened in their own order: 2·2 + 3 numbers.
        (
            spaces.Dict({"a": box(-1, 1, (2, 2), np.float32), "b": spaces.Discrete(3)}),
            (7,),
            "<f4",
        ),
        (spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2))), (5,), "|u1"),
        (
            spaces.Tuple((spaces.Dict({"x": box(0, 9, (2,), np.float64)}), spaces.Discrete(2))),
            (4,),
            "<f4",
        ),
    ],
)
def test_a_space_becomes_arrays_of_a_shape_and_a_dtype(
    space: gym.Space[Any], shape: tuple[int, ...], dtype: str
) -> None:
    config = config_for(space)
    assert probe_spec(config) == EnvSpec(shape, dtype, 2)
    vector = make_vector(config, 3)
    obs, _ = vector.reset(seed=0)
    vector.close()
    assert obs.shape == (3, *shape)
    # What is stored is what was observed, as far as the network can tell.
    np.testing.assert_array_equal(obs.astype(dtype).astype(np.float32), obs.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.bool_, np.float64])
def test_a_network_of_images_sees_the_numbers_that_the_environment_gave(dtype: Any) -> None:
    config = config_for(box(0, 1, (10, 10, 4), dtype)).model_copy(update={"network": "minatar"})
    spec = probe_spec(config)
    network = build_network(config, spec)
    ones = np.ones((1, *spec.obs_shape))
    with torch.no_grad():
        seen = network(torch.from_numpy(ones.astype(spec.dtype)))
        assert torch.equal(seen, network(torch.from_numpy(ones.astype(np.float32))))


def test_flattened_observations_are_gymnasiums() -> None:
    space = spaces.Dict({"place": spaces.Discrete(3), "speed": box(-1, 1, (2,), np.float32)})
    vector = make_vector(config_for(space), 1)
    obs, _ = vector.reset(seed=5)
    vector.close()
    space.seed(5)
    np.testing.assert_array_equal(obs[0], spaces.flatten(space, space.sample()))


@pytest.mark.parametrize(
    "actions",
    [
        box(-1, 1, (2,), np.float32),
        spaces.MultiDiscrete([2, 2]),
        spaces.MultiBinary(2),
        spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))),
    ],
)
def test_other_actions_are_refused_with_what_is_supported_and_what_to_do(
    actions: gym.Space[Any],
) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        probe_spec(config_for(actions=actions))
    message = str(caught.value)
    assert str(actions) in message
    assert "Discrete" in message
    assert "Wrap the environment" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "observations",
    [
        spaces.Graph(box(-1, 1, (2,), np.float32), None),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Dict({"words": spaces.Sequence(spaces.Discrete(2))}),
        box(-1, 1, (2, 0), np.float32),
    ],
)
def test_other_observations_are_refused_with_what_is_supported(
    observations: gym.Space[Any],
) -> None:
    with pytest.raises(EnvironmentFault, match="Box of a numeric dtype, Discrete") as caught:
        probe_spec(config_for(observations))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "observations", [spaces.Discrete(4), spaces.Dict({"place": box(-1, 1, (2,), np.float32)})]
)
def test_of_a_vector_class_nothing_is_flattened(observations: gym.Space[Any]) -> None:
    vector = SilentAutoreset()
    vector.single_observation_space = observations
    flattens = 'vectorization = "sync" or "async" flattens Discrete'
    with pytest.raises(EnvironmentFault, match=f"takes Box of a numeric dtype.*{flattens}"):
        spec_of(vector)


@pytest.mark.parametrize(("start", "offset"), [(0, 0), (5, 5), (-2, -2)])
def test_actions_count_from_zero_and_the_environment_from_its_start(
    start: int, offset: int
) -> None:
    vector = make_vector(config_for(actions=spaces.Discrete(4, start=start)), 2)
    assert spec_of(vector).num_actions == 4
    assert action_offset(vector) == offset
    vector.close()


def test_the_environments_arguments_reach_it() -> None:
    config = Config(env="tests.environments:Ledger-v0", env_kwargs={"num_actions": 7})
    assert probe_spec(config) == EnvSpec((4,), "<f4", 7)


def test_arguments_that_it_does_not_take_are_said_with_the_reason() -> None:
    config = Config(env="tests.environments:Ledger-v0", env_kwargs={"colour": 7})
    with pytest.raises(EnvironmentFault, match="colour") as caught:
        probe_spec(config)
    assert "cannot make tests.environments:Ledger-v0" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("CartPol-v1", ["CartPole"]),
        ("CartPole-v99", ["CartPole", "v1"]),
        ("cartpole", ["Did you mean CartPole-v1?"]),
        ("MinAtar/Brekout-v1", ["Did you mean MinAtar/Breakout-v1?"]),
        ("ALE/Pnog-v5", ["Did you mean ALE/Pong-v5?"]),
        # The namespace may be left out.
        ("Zaxxon-v5", ["Did you mean ALE/Zaxxon-v5?"]),
        ("MiniGrid-Emty-5x5-v0", ["Did you mean MiniGrid-Empty-5x5-v0?"]),
        ("Nowhere-v0", ["Nowhere-v0"]),
        ("no_such_module:Env-v0", ["no_such_module"]),
        ("tests.environments:Absent-v0", ["Absent"]),
    ],
)
def test_an_unknown_environment_is_named_with_the_nearest_and_the_forms(
    name: str, parts: list[str]
) -> None:
    with pytest.raises(EnvironmentFault, match="unknown environment") as caught:
        probe_spec(Config(env=name))
    message = str(caught.value)
    for part in [*parts, "Gymnasium id", "module:EnvId"]:
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("vectorization", ["sync", "vector_entry_point"])
def test_of_an_unknown_environment_one_suggestion_is_made(vectorization: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        probe_spec(Config(env="CartPol-v1", vectorization=vectorization))  # type: ignore[arg-type]
    assert str(caught.value).count("Did you mean") == 1


def test_a_name_of_no_known_form_is_said_with_the_form() -> None:
    with pytest.raises(EnvironmentFault, match=r"three words.*\[namespace/\]\(env-name\)-v"):
        probe_spec(Config(env="a name of three words"))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("autoreset", "mode"),
    [("next_step", AutoresetMode.NEXT_STEP), ("same_step", AutoresetMode.SAME_STEP)],
)
def test_the_autoreset_mode_is_the_one_that_was_asked_for(
    vectorization: str, autoreset: str, mode: AutoresetMode
) -> None:
    vector = make_vector(Config(vectorization=vectorization, autoreset=autoreset), 1)  # type: ignore[arg-type]
    assert autoreset_mode(vector) is mode
    vector.close()


def test_an_own_vector_class_says_its_mode_itself() -> None:
    vector = make_vector(Config(vectorization="vector_entry_point"), 1)
    assert autoreset_mode(vector) is AutoresetMode.NEXT_STEP
    vector.close()


@pytest.mark.filterwarnings("ignore:.*missing AutoresetMode metadata:UserWarning")
@pytest.mark.parametrize(
    ("name", "mode"), [("DisabledAutoreset", "AutoresetMode.DISABLED"), ("SilentAutoreset", "None")]
)
def test_a_vector_class_that_does_not_start_over_is_refused(name: str, mode: str) -> None:
    config = Config(env=f"tests.environments:{name}-v0", vectorization="vector_entry_point")
    with pytest.raises(EnvironmentFault, match="NEXT_STEP or SAME_STEP") as caught:
        make_vector(config, 2)
    assert f"{name} has autoreset mode {mode}" in str(caught.value)


@pytest.mark.parametrize(
    ("env", "package", "extra"),
    [
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("MinAtar/Breakout-v1", "minatar", "minatar"),
        ("MiniGrid-Empty-5x5-v0", "minigrid", "minigrid"),
        ("BabyAI-GoToRedBall-v0", "minigrid", "minigrid"),
    ],
)
def test_a_family_whose_package_is_missing_is_named_with_its_extra(
    env: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    expected = rf"{env} needs the package {package}, .*\[{extra}\].*ZAPEX_EXTRAS={extra}"
    with pytest.raises(EnvironmentFault, match=expected):
        probe_spec(Config(env=env))


class Mortal(gym.Env[Any, int]):
    """Has three lives and tells them."""

    made = 0

    def __init__(self) -> None:
        Mortal.made += 1
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        return np.zeros(1, np.float32), {"lives": 3}


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Mortal, "made", 0)
    name = "Mortal-v0"
    spec = gym.envs.registration.EnvSpec(name, entry_point=Mortal)
    monkeypatch.setitem(gym.registry, name, spec)
    return name


def test_no_environment_is_made_only_to_be_looked_at(mortal: str) -> None:
    make_vector(Config(env=mortal), 3).close()
    assert Mortal.made == 3


def test_lives_can_end_episodes_where_they_are_told(mortal: str) -> None:
    vector = make_vector(Config(env=mortal, life_loss_ends_episode=True), 2)
    np.testing.assert_array_equal(vector.reset(seed=0)[1]["lives"], [3, 3])
    vector.close()


def test_lives_that_nobody_tells_cannot_end_episodes() -> None:
    with pytest.raises(EnvironmentFault, match=r"lives in info\['lives'\]: life_loss_ends_episode"):
        probe_spec(Config(life_loss_ends_episode=True))


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: Any, **__: Any) -> None:
        raise gym.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(gym, "make_vec", make)
    with pytest.raises(EnvironmentFault, match=r"LunarLander-v3 .* pip install .*\[box2d\]"):
        probe_spec(Config(env="LunarLander-v3"))
