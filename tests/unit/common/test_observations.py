"""Which part of an observation, how large, in which colours."""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium import spaces

from common.config import Config
from common.environments import make_vector, probe_spec
from common.errors import EnvironmentFault
from common.spec import EnvSpec

cv2 = pytest.importorskip("cv2", reason="the extra atari is not installed")

Image = npt.NDArray[np.uint8]


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


SEEN = spaces.Dict({"compass": spaces.Discrete(4), "view": image(12, 10, 3)})


def config_for(space: gym.Space[Any], **values: Any) -> Config:
    return Config(env="tests.environments:Spaces-v0", env_kwargs={"observations": space}, **values)


def observed(config: Config) -> Image:
    vector = make_vector(config, 2)
    obs, _ = vector.reset(seed=5)
    vector.close()
    assert isinstance(obs, np.ndarray)
    return obs


def sampled(space: gym.Space[Any]) -> list[Any]:
    """What the two environments of `observed` draw."""
    drawn = []
    for seed in (5, 6):
        space.seed(seed)
        drawn.append(space.sample())
    return drawn


def luminance(pixels: Image) -> Image:
    """0.2125 R + 0.7154 G + 0.0721 B, as in Gymnasium's wrapper."""
    grey = 0.2125 * pixels[..., 0] + 0.7154 * pixels[..., 1] + 0.0721 * pixels[..., 2]
    return grey.astype(np.uint8)


def resized(pixels: Image, height: int, width: int) -> Image:
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return small.reshape(height, width, *pixels.shape[2:])  # type: ignore[no-any-return]


def test_an_entry_of_the_observation_is_the_observation() -> None:
    obs = observed(config_for(SEEN, obs_key="view"))
    np.testing.assert_array_equal(obs, [each["view"] for each in sampled(SEEN)])


def test_an_entry_that_is_no_array_is_flattened() -> None:
    obs = observed(config_for(SEEN, obs_key="compass"))
    # One-hot.
    np.testing.assert_array_equal(obs, np.eye(4)[[each["compass"] for each in sampled(SEEN)]])


def test_colours_become_luminance_and_lose_their_axis() -> None:
    space = image(12, 10, 3)
    obs = observed(config_for(space, greyscale=True))
    # Rounding may fall either way where the sums of three products differ in their last bits.
    expected = np.stack([luminance(each) for each in sampled(space)])
    assert np.abs(obs.astype(int) - expected.astype(int)).max() <= 1
    assert obs.shape == (2, 12, 10)


@pytest.mark.parametrize("space", [image(12, 10, 3), image(12, 10), image(12, 10, 1)])
def test_images_are_resized_by_area(space: spaces.Box) -> None:
    obs = observed(config_for(space, resize=(6, 4)))
    expected = [resized(each, 6, 4) for each in sampled(space)]
    np.testing.assert_array_equal(obs, expected)


def test_an_entry_is_made_grey_and_then_resized() -> None:
    config = config_for(SEEN, obs_key="view", greyscale=True, resize=(6, 4))
    assert probe_spec(config) == EnvSpec((6, 4), "|u1", 2)
    expected = [resized(luminance(each["view"]), 6, 4) for each in sampled(SEEN)]
    assert np.abs(observed(config).astype(int) - np.array(expected, int)).max() <= 1


@pytest.mark.parametrize(
    ("space", "values", "reason"),
    [
        (SEEN, {"obs_key": "veiw"}, "observes no 'veiw': obs_key can be compass, view"),
        (image(4, 4, 3), {"obs_key": "view"}, "obs_key = 'view' names .*leave it out"),
        (SEEN, {"resize": (8, 8)}, "resize needs images .*with obs_key: compass, view"),
        (SEEN, {"greyscale": True}, "greyscale needs images .*with obs_key: compass, view"),
        (spaces.Discrete(3), {"resize": (8, 8)}, "resize needs images .*leave resize out"),
        (image(4), {"resize": (8, 8)}, "resize needs images .*leave resize out"),
        (image(2, 4, 4, 3), {"resize": (8, 8)}, "resize needs images .*leave resize out"),
        (image(4, 4), {"greyscale": True}, "greyscale needs images .*leave greyscale out"),
        (image(4, 4, 1), {"greyscale": True}, "greyscale needs .*leave greyscale out"),
        (
            spaces.Box(0.0, 1.0, (4, 4, 3), np.float32),
            {"resize": (8, 8)},
            "resize needs images of uint8 from 0 to 255",
        ),
        (
            spaces.Box(0, 1, (4, 4, 3), np.uint8),
            {"greyscale": True},
            "greyscale needs images of uint8 from 0 to 255",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_can(
    space: gym.Space[Any], values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(EnvironmentFault, match=reason) as caught:
        probe_spec(config_for(space, **values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [{"obs_key": "view"}, {"resize": (8, 8)}, {"greyscale": True}])
def test_an_own_vector_class_observes_what_it_does(values: dict[str, Any]) -> None:
    config = Config(vectorization="vector_entry_point", **values)
    with pytest.raises(EnvironmentFault, match="vector class of CartPole-v1 knows no obs_key"):
        probe_spec(config)


def test_minigrid_is_seen_by_its_image() -> None:
    pytest.importorskip("minigrid", reason="the extra minigrid is not installed")
    env = "MiniGrid-Empty-5x5-v0"
    assert probe_spec(Config(env=env, obs_key="image")) == EnvSpec((7, 7, 3), "|u1", 7)
    # Its mission is text, which is no array.
    with pytest.raises(EnvironmentFault, match=r"flattened: .*obs_key: direction, image, mission"):
        probe_spec(Config(env=env))
