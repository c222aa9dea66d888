"""Atari: ale-py's vector environment against Gymnasium's wrappers, frame by frame; the protocol.

Both sides run the same emulator, whose only random numbers are those of sticky actions. Given the
same seeds, everything must be the same to the last pixel.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv

from common.atari import AtariProtocol
from common.config import Config
from common.environments import autoreset_mode, make_vector, probe_spec
from common.errors import EnvironmentFault
from common.spec import EnvSpec

pytest.importorskip("ale_py", reason="the extra atari is not installed")
pytest.importorskip("cv2", reason="the extra atari is not installed")

Vector = VectorEnv[Any, Any, Any]

NUM_ENVS = 2
SEEDS = [1, 4]
"""Of Gymnasium's environments; the emulator seeds that these make fit into 31 bits, as ale-py's
vector environment demands."""


def config_for(env: str = "ALE/Pong-v5", **values: Any) -> Config:
    images = {"resize": (84, 84), "greyscale": True, "vectorization": "vector_entry_point"}
    return Config(env=env, **{**images, **values})


def both(config: Config) -> tuple[Vector, Vector]:
    """ale-py's vector environment and the reference."""
    reference = config.model_copy(update={"vectorization": "sync"})
    return make_vector(config, NUM_ENVS), make_vector(reference, NUM_ENVS)


def reset_alike(own: Vector, reference: Vector) -> None:
    """Resets both with the same emulator seeds and compares what they return."""
    expected_obs, expected_info = reference.reset(seed=SEEDS)  # type: ignore[arg-type]
    # Gymnasium's environment derives the emulator's seed from its own.
    emulator_seeds = of_consoles(reference, lambda ale: ale.getInt("random_seed"))
    assert (emulator_seeds > 0).all()
    obs, info = own.reset(seed=emulator_seeds)  # type: ignore[arg-type]
    np.testing.assert_array_equal(obs, expected_obs)
    assert_same_info(info, expected_info, reference)


def of_consoles(reference: Vector, ask: Callable[[Any], int]) -> npt.NDArray[np.int64]:
    """What the emulators of the reference say."""
    singles: Any = reference
    return np.array([ask(single.unwrapped.ale) for single in singles.envs], np.int64)


def episode_frames(vector: Vector, info: dict[str, Any]) -> npt.NDArray[np.int64]:
    """Frames since each episode began: ale-py's vector tells, Gymnasium's is not asked to."""
    if "episode_frame_number" in info:
        return np.array(info["episode_frame_number"], np.int64)
    return of_consoles(vector, lambda ale: ale.getEpisodeFrameNumber())


def assert_same_info(info: dict[str, Any], expected: dict[str, Any], reference: Vector) -> None:
    np.testing.assert_array_equal(info["lives"], expected["lives"])
    np.testing.assert_array_equal(
        info["frame_number"], of_consoles(reference, lambda ale: ale.getFrameNumber())
    )
    np.testing.assert_array_equal(info["episode_frame_number"], episode_frames(reference, {}))


def follow(own: Vector, reference: Vector, steps: int) -> dict[str, int]:
    """Plays both with the same random actions and compares all that they return; counts events."""
    events = {"terminated": 0, "truncated": 0, "lives lost": 0, "points": 0}
    rng = np.random.default_rng(0)
    lives = np.zeros(NUM_ENVS, np.int64)
    for _ in range(steps):
        action = rng.integers(own.single_action_space.n, size=NUM_ENVS)  # type: ignore[attr-defined]
        obs, reward, terminated, truncated, info = own.step(action)
        expected = reference.step(action)
        np.testing.assert_array_equal(obs, expected[0])
        np.testing.assert_array_equal(reward, expected[1])
        np.testing.assert_array_equal(terminated, expected[2])
        np.testing.assert_array_equal(truncated, expected[3])
        assert_same_info(info, expected[4], reference)
        ended = terminated | truncated
        if "final_obs" in expected[4]:
            np.testing.assert_array_equal(info["_final_obs"], ended)
            for i in np.flatnonzero(ended):
                np.testing.assert_array_equal(info["final_obs"][i], expected[4]["final_obs"][i])
        events["terminated"] += int(terminated.sum())
        events["truncated"] += int(truncated.sum())
        events["lives lost"] += int((~ended & (info["lives"] < lives)).sum())
        events["points"] += int((reward != 0).sum())
        lives = info["lives"]
    return events


@pytest.mark.parametrize(("autoreset", "sticky"), [("next_step", 0.25), ("same_step", 0.0)])
@pytest.mark.parametrize(
    ("env", "steps", "game_overs", "lives_lost"),
    # At random, a game of pong lasts some 800 steps, of breakout 200, of seaquest 500.
    [
        ("ALE/Pong-v5", 1_100, 1, 0),
        ("ALE/Breakout-v5", 600, 2, 8),
        ("ALE/Seaquest-v5", 800, 1, 4),
    ],
)
def test_the_vector_plays_frame_by_frame_what_the_reference_plays(
    env: str, steps: int, game_overs: int, lives_lost: int, autoreset: str, sticky: float
) -> None:
    config = config_for(env, autoreset=autoreset, env_kwargs={"repeat_action_probability": sticky})
    own, reference = both(config)
    try:
        assert autoreset_mode(own) is autoreset_mode(reference)
        assert own.single_observation_space == reference.single_observation_space
        assert own.single_action_space == reference.single_action_space
        reset_alike(own, reference)
        events = follow(own, reference, steps)
        assert events["points"] > 0
        assert events["terminated"] >= game_overs
        assert events["lives lost"] >= lives_lost
        # In the middle of an episode, too, a reset starts over.
        reset_alike(own, reference)
        follow(own, reference, 10)
    finally:
        own.close()
        reference.close()


@pytest.mark.parametrize(
    ("frameskip", "cap", "autoreset"),
    # The cap in the middle of a step, at the end of one, and without skipped frames.
    [
        (4, 403, "next_step"),
        (4, 404, "same_step"),
        (3, 301, "same_step"),
        (1, 50, "next_step"),
    ],
)
def test_the_frame_cap_truncates_as_in_the_reference(
    frameskip: int, cap: int, autoreset: str
) -> None:
    env_kwargs = {"frameskip": frameskip, "max_num_frames_per_episode": cap}
    own, reference = both(
        config_for("ALE/SpaceInvaders-v5", autoreset=autoreset, env_kwargs=env_kwargs)
    )
    try:
        reset_alike(own, reference)
        steps_of_an_episode = -(-cap // frameskip)
        events = follow(own, reference, 2 * steps_of_an_episode + 3)
        assert events["truncated"] == 2 * NUM_ENVS
        assert events["terminated"] == 0
    finally:
        own.close()
        reference.close()


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        ({"resize": (80, 96)}, (80, 96)),
        ({"resize": (80, 96), "greyscale": False}, (80, 96, 3)),
        # Not resized: the console's own screen, 210 lines of 160 pixels.
        ({"resize": None}, (210, 160)),
        ({"resize": None, "greyscale": False}, (210, 160, 3)),
    ],
)
def test_sizes_and_colours_are_those_of_the_reference(
    images: dict[str, Any], shape: tuple[int, ...]
) -> None:
    config = config_for("ALE/Qbert-v5", **images)
    assert probe_spec(config) == EnvSpec(shape, "|u1", 6)
    own, reference = both(config)
    try:
        reset_alike(own, reference)
        follow(own, reference, 30)
    finally:
        own.close()
        reference.close()


def frames_before_the_first_step(config: Config, resets: int = 1) -> npt.NDArray[np.int64]:
    vector = make_vector(config, NUM_ENVS)
    # Seeding makes the emulator load its game anew, which takes longer than all else here.
    frames = [episode_frames(vector, vector.reset(seed=0)[1])]
    frames += [episode_frames(vector, vector.reset()[1]) for _ in range(resets - 1)]
    vector.close()
    return np.concatenate(frames)


@pytest.mark.parametrize(
    ("vectorization", "fewest"),
    # Gymnasium's wrapper plays at least one when it plays any.
    [("vector_entry_point", 0), ("sync", 1)],
)
def test_an_episode_begins_with_a_random_number_of_noops_up_to_the_maximum(
    vectorization: str, fewest: int
) -> None:
    config = config_for(vectorization=vectorization, env_kwargs={"noop_max": 3})
    # 96 episodes: one of the four numbers is missing once in 10¹¹.
    played = frames_before_the_first_step(config, 48)
    assert set(played.tolist()) == set(range(fewest, 4))


@pytest.mark.parametrize("vectorization", ["vector_entry_point", "sync"])
def test_no_noops_are_none_and_the_game_begins_with_the_agent(vectorization: str) -> None:
    played = frames_before_the_first_step(config_for(vectorization=vectorization))
    assert set(played.tolist()) == {0}


@pytest.mark.parametrize(("env", "fires"), [("ALE/Breakout-v5", 1), ("ALE/Freeway-v5", 0)])
def test_an_episode_begins_with_fire_where_that_is_wanted_and_the_game_has_it(
    env: str, fires: int
) -> None:
    played = frames_before_the_first_step(config_for(env, env_kwargs={"use_fire_reset": True}))
    assert set(played.tolist()) == {fires}


@pytest.mark.parametrize(
    ("vectorization", "noops_count"), [("vector_entry_point", False), ("sync", True)]
)
def test_the_cap_counts_noops_in_the_reference_alone(vectorization: str, noops_count: bool) -> None:
    """60 frames are 15 steps. The reference plays 1 to 30 of them as no-ops."""
    config = config_for(
        vectorization=vectorization,
        env_kwargs={"noop_max": 30, "max_num_frames_per_episode": 60},
    )
    vector = make_vector(config, NUM_ENVS)
    _, info = vector.reset(seed=0)
    noops = episode_frames(vector, info)
    assert noops.max() > 0
    length = np.zeros(NUM_ENVS, np.int64)
    ended = np.zeros(NUM_ENVS, np.bool_)
    while not ended.all():
        _, _, terminated, truncated, _ = vector.step(np.zeros(NUM_ENVS, np.int64))
        length += ~ended
        ended |= truncated
        assert not terminated.any()
    vector.close()
    np.testing.assert_array_equal(length, -(-(60 - noops * noops_count) // 4))


def test_without_pooling_the_last_frame_alone_is_seen() -> None:
    """Space invaders draws its shots in every other frame: the pooled screen is nowhere darker, and
    somewhere brighter."""
    frames = []
    for maxpool in (True, False):
        env_kwargs = {"maxpool": maxpool, "repeat_action_probability": 0.0}
        vector = make_vector(config_for("ALE/SpaceInvaders-v5", env_kwargs=env_kwargs), 1)
        vector.reset(seed=0)
        frames.append(np.concatenate([vector.step(np.ones(1, np.int64))[0] for _ in range(40)]))
        vector.close()
    pooled, single = frames
    assert (pooled >= single).all()
    assert (pooled > single).any()


def test_minimal_actions_or_all_of_the_console() -> None:
    assert probe_spec(config_for("ALE/Breakout-v5")).num_actions == 4
    everything = config_for("ALE/Breakout-v5", env_kwargs={"full_action_space": True})
    assert probe_spec(everything).num_actions == 18
    reference = everything.model_copy(update={"vectorization": "sync"})
    assert probe_spec(reference).num_actions == 18


def test_arguments_may_say_what_is_so_anyway() -> None:
    settled = {"stack_num": 1, "reward_clipping": False, "episodic_life": False}
    assert probe_spec(config_for(env_kwargs=settled)) == EnvSpec((84, 84), "|u1", 6)


@pytest.mark.parametrize(
    ("env_kwargs", "reason"),
    [
        ({"stack_num": 4}, "stack_num = 4 is not taken: .*set frame_stack"),
        ({"reward_clipping": True}, "reward_clipping = True is not taken: .*set reward_clip"),
        ({"episodic_life": True}, "episodic_life = True .*set life_loss_ends_episode"),
        ({"life_loss_info": True}, "life_loss_info = True .*set life_loss_ends_episode"),
        ({"img_height": 84}, r"img_height = 84 .*set resize = \[height, width\]"),
        ({"grayscale": True}, "grayscale = True .*set greyscale"),
        ({"continuous": True}, "continuous = True .*Discrete actions"),
        ({"frame_skip": 4}, "frame_skip = 4 is unknown; did you mean frameskip?"),
        ({"xyz": 4}, "xyz = 4 is unknown; see common/atari.py"),
        ({"frameskip": 0}, "frameskip = 0: .*greater than or equal to 1"),
        ({"frameskip": 2.5}, "frameskip = 2.5: .*integer"),
        ({"repeat_action_probability": 1.5}, "repeat_action_probability = 1.5: .*less than"),
        ({"maxpool": "yes"}, "maxpool = 'yes': .*boolean"),
    ],
)
def test_a_protocol_that_is_not_one_is_refused_with_what_to_set(
    env_kwargs: dict[str, Any], reason: str
) -> None:
    with pytest.raises(EnvironmentFault, match=f"env_kwargs of ALE/Pong-v5: {reason}"):
        probe_spec(config_for(env_kwargs=env_kwargs))


@pytest.mark.parametrize("env_kwargs", [{"use_fire_reset": True}, {"maxpool": False}])
def test_what_the_reference_cannot_play_is_refused(env_kwargs: dict[str, Any]) -> None:
    config = config_for(vectorization="sync", env_kwargs=env_kwargs)
    with pytest.raises(EnvironmentFault, match='vectorization = "vector_entry_point"'):
        probe_spec(config)


def test_part_of_an_image_is_refused() -> None:
    with pytest.raises(EnvironmentFault, match="leave obs_key out"):
        probe_spec(config_for(obs_key="image"))


def test_lives_are_told_so_that_losing_one_can_end_an_episode() -> None:
    vector = make_vector(config_for("ALE/Breakout-v5", life_loss_ends_episode=True), NUM_ENVS)
    _, info = vector.reset(seed=0)
    np.testing.assert_array_equal(info["lives"], [5, 5])
    vector.close()


def test_a_game_processes_on_its_own_plays_the_same_protocol() -> None:
    config = config_for(vectorization="async", autoreset="same_step")
    vector = make_vector(config, NUM_ENVS)
    obs, _ = vector.reset(seed=0)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    vector.close()
    assert (obs.shape, obs.dtype) == ((NUM_ENVS, 84, 84), np.uint8)


def test_defaults_are_the_present_day_protocol() -> None:
    """Of Dopamine (Castro et al. 2018), with the sticky actions of Machado et al. 2018."""
    assert AtariProtocol().model_dump() == {
        "frameskip": 4,
        "maxpool": True,
        "repeat_action_probability": 0.25,
        "noop_max": 0,
        "use_fire_reset": False,
        "max_num_frames_per_episode": 108_000,
        "full_action_space": False,
        "num_threads": 1,
    }
