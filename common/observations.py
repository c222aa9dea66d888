"""What a single environment observes, made a plain array by Gymnasium's wrappers."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from common.codec import DTYPES
from common.config import Config
from common.errors import EnvironmentFault

_Env = gym.Env[Any, Any]


def as_array(env: _Env, config: Config) -> _Env:
    """The environment with `obs_key`, `greyscale` and `resize` applied in this order; whatever is
    no array then is flattened.

    Raises EnvironmentFault when its observations have no such entry, or are not such images.
    """
    if config.obs_key is not None:
        env = _entry(env, config)
    if config.greyscale:
        _require_image(env, config.env, "greyscale", colour=True)
        env = gym.wrappers.GrayscaleObservation(env)
    if config.resize is not None:
        _require_image(env, config.env, "resize", colour=False)
        env = gym.wrappers.ResizeObservation(env, config.resize)
    return env if is_array(env.observation_space) else _flattened(env, config)


def is_array(space: gym.Space[Any]) -> bool:
    """Whether observations of this space can be stored and sent as they are."""
    return isinstance(space, spaces.Box) and np.dtype(space.dtype).str in DTYPES


def _entry(env: _Env, config: Config) -> _Env:
    space, key = env.observation_space, config.obs_key
    if not isinstance(space, spaces.Dict):
        raise EnvironmentFault(
            f"obs_key = {key!r} names an entry of a Dict observation, but {config.env} observes "
            f"{space}: leave it out"
        )
    if key not in space.spaces:
        raise EnvironmentFault(
            f"{config.env} observes no {key!r}: obs_key can be {', '.join(space.spaces)}"
        )
    return gym.wrappers.TransformObservation(env, lambda obs: obs[key], space[key])


def _flattened(env: _Env, config: Config) -> _Env:
    space = env.observation_space
    try:
        return gym.wrappers.FlattenObservation(env)
    except NotImplementedError as error:
        hint = (
            f"name an entry that can be with obs_key: {', '.join(space.spaces)}"
            if isinstance(space, spaces.Dict)
            else "wrap the environment so that its observations are arrays"
        )
        raise EnvironmentFault(
            f"{config.env} observes {space}, which cannot be flattened: {hint}"
        ) from error


def _require_image(env: _Env, name: str, option: str, *, colour: bool) -> None:
    space = env.observation_space
    if (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and (len(space.shape) == 3 or (len(space.shape) == 2 and not colour))
        and (space.shape[-1] == 3 or not colour)
        and (space.low == 0).all()
        and (space.high == 255).all()
    ):
        return
    shape = "[height, width, 3]" if colour else "[height, width] or [height, width, channels]"
    hint = (
        f"name one with obs_key: {', '.join(space.spaces)}"
        if isinstance(space, spaces.Dict)
        else f"leave {option} out"
    )
    raise EnvironmentFault(
        f"{option} needs images of uint8 from 0 to 255, {shape}; {name} observes {space}: {hint}"
    )
