"""Environments by Gymnasium id: one, or a vector of them, with observations as plain arrays.

Dict, Tuple, Discrete, MultiDiscrete and MultiBinary observations are flattened by Gymnasium.
Observations are stored in the smallest dtype that loses nothing the network would see: float64
becomes float32 (networks compute in float32), bounded integers shrink to their range.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from common.codec import DTYPES
from common.config import Config
from common.errors import EnvironmentFault
from common.spec import EnvSpec

AUTORESET = {"next_step": AutoresetMode.NEXT_STEP, "same_step": AutoresetMode.SAME_STEP}

_Vector = VectorEnv[Any, Any, Any]


def make_vector(config: Config, num_envs: int) -> _Vector:
    """`num_envs` environments stepped together.

    Raises EnvironmentFault, with what to do, when they cannot be made or are not supported.
    """
    wrappers = []
    if config.vectorization != "vector_entry_point" and not _is_box(_single_space(config)):
        wrappers.append(gym.wrappers.FlattenObservation)
    vector_kwargs: dict[str, Any] = {}
    if config.vectorization != "vector_entry_point":
        vector_kwargs["autoreset_mode"] = AUTORESET[config.autoreset]
    try:
        vector = gym.make_vec(
            config.env,
            num_envs=num_envs,
            vectorization_mode=config.vectorization,
            vector_kwargs=vector_kwargs,
            wrappers=wrappers,
            **config.env_kwargs,
        )
    except Exception as error:
        raise _fault(config, error) from error
    autoreset_mode(vector)
    return vector


def autoreset_mode(vector: _Vector) -> AutoresetMode:
    """How the vector environment starts finished environments over, from its metadata.

    Raises EnvironmentFault when it does not say, or does not do it at all.
    """
    mode = vector.metadata.get("autoreset_mode")
    if mode not in AUTORESET.values():
        raise EnvironmentFault(
            f"{type(vector.unwrapped).__name__} has autoreset mode {mode}: zapex needs NEXT_STEP "
            "or SAME_STEP in its metadata"
        )
    return AutoresetMode(mode)


def probe_spec(config: Config) -> EnvSpec:
    """What this run's observations and actions look like; makes one environment and closes it.

    Raises EnvironmentFault when it cannot be made or its spaces are not supported.
    """
    vector = make_vector(config, 1)
    try:
        return spec_of(vector)
    finally:
        vector.close()


def spec_of(vector: _Vector) -> EnvSpec:
    """Raises EnvironmentFault when a space is not supported."""
    actions = vector.single_action_space
    if not isinstance(actions, gym.spaces.Discrete):
        raise EnvironmentFault(
            f"action space {actions} is not supported: zapex learns Q-values of Discrete actions. "
            "Wrap the environment so that its actions are gymnasium.spaces.Discrete"
        )
    observations = vector.single_observation_space
    if not isinstance(observations, gym.spaces.Box) or not _is_box(observations):
        raise EnvironmentFault(
            f"observation space {observations} is not supported: zapex takes Box of a numeric "
            "dtype, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these"
        )
    return EnvSpec(observations.shape, _storage_dtype(observations).str, int(actions.n))


def action_offset(vector: _Vector) -> int:
    """The environment's first action: zapex counts actions from 0."""
    space = vector.single_action_space
    return int(space.start) if isinstance(space, gym.spaces.Discrete) else 0


def _single_space(config: Config) -> gym.Space[Any]:
    try:
        env = gym.make(config.env, **config.env_kwargs)
    except Exception as error:
        raise _fault(config, error) from error
    try:
        return env.observation_space
    finally:
        env.close()


def _is_box(space: gym.Space[Any]) -> bool:
    return isinstance(space, gym.spaces.Box) and np.dtype(space.dtype).str in DTYPES


def _storage_dtype(space: gym.spaces.Box) -> np.dtype[Any]:
    dtype = np.dtype(space.dtype)
    if dtype == np.float64:
        return np.dtype(np.float32)
    if dtype.kind in "iu":
        low, high = int(space.low.min()), int(space.high.max())
        for smaller in map(np.dtype, ("u1", "i1", "<u2", "<i2", "<u4", "<i4")):
            bounds = np.iinfo(smaller)
            if smaller.itemsize < dtype.itemsize and bounds.min <= low and high <= bounds.max:
                return smaller
    return dtype


def _fault(config: Config, error: Exception) -> EnvironmentFault:
    name = config.env
    if isinstance(error, EnvironmentFault):
        return error
    if isinstance(error, gym.error.DependencyNotInstalled):
        extra = "box2d" if "box2d" in str(error).lower() else None
        how = (
            f"pip install -e '.[{extra}]' (deploy/launch.sh does it with ZAPEX_EXTRAS={extra})"
            if extra
            else "install it"
        )
        return EnvironmentFault(f"{name} needs a package that is not installed ({error}): {how}")
    if isinstance(error, (gym.error.UnregisteredEnv, ModuleNotFoundError)):
        return EnvironmentFault(
            f"unknown environment {name!r}: {str(error).rstrip('.')}. Give a Gymnasium id, or "
            "module:EnvId with the module on this process's Python path"
        )
    return EnvironmentFault(
        f"cannot make {name} with {config.env_kwargs or 'no arguments'}: "
        f"{type(error).__name__}: {error}"
    )
