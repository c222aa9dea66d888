"""Environments by Gymnasium id: one, or a vector of them, with observations as plain arrays.

Dict, Tuple, Discrete, MultiDiscrete and MultiBinary observations are flattened by Gymnasium.
Observations are stored in the smallest dtype that loses nothing the network would see: float64
becomes float32 (networks compute in float32), bounded integers shrink to their range. Images do not
become uint8, though: networks scale that, for it says that numbers are pixels.
"""

import functools
import importlib
import inspect
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from common import atari, environment_ids, envpool
from common.config import Config
from common.errors import EnvironmentFault
from common.observations import as_array, is_array
from common.spec import EnvSpec
from common.sub_environment import Misbehaved
from common.watched_vector import Watch, WatchedVector

AUTORESET = {"next_step": AutoresetMode.NEXT_STEP, "same_step": AutoresetMode.SAME_STEP}

_Vector = VectorEnv[Any, Any, Any]

_TAKES = (
    "zapex takes Box of a numeric dtype, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple "
    "of these, with at least one number"
)
_TAKES_OF_VECTOR_CLASSES = (
    "of a vector class zapex takes Box of a numeric dtype, with at least one number. "
    'vectorization = "sync" or "async" flattens Discrete, MultiDiscrete, MultiBinary, and Dict or '
    "Tuple of these"
)
"""What observations can be, to follow what they are."""

_EXTRAS = {"box2d": "box2d", "opencv": "atari"}
"""Words in Gymnasium's complaints about missing packages, and which extra brings them."""


def make_vector(
    config: Config, num_envs: int, *, rendered: bool = False, first_env_index: int | None = None
) -> WatchedVector:
    """`num_envs` environments stepped together, whose faults name them.

    Args:
        rendered: their `render` gives pictures, which takes `vectorization = "sync"`.
        first_env_index: of the environments on the run's ε ladder.

    Raises EnvironmentFault, with what to do, when they cannot be made or are not supported.
    """
    watch = Watch(config.env, num_envs, private=rendered)
    watch.first_env_index = first_env_index
    try:
        with watch.making(config.vectorization):
            vector = WatchedVector(_make(config, num_envs, rendered, watch), watch)
        lives_missing = config.life_loss_ends_episode and not _tells_lives(config, vector)
    except Exception as error:
        raise _fault(config, error, watch) from error
    autoreset_mode(vector)
    if lives_missing:
        vector.close()
        raise EnvironmentFault(
            f"{config.env} does not tell its lives in info['lives']: life_loss_ends_episode must "
            "be false"
        )
    return vector


def _tells_lives(config: Config, vector: _Vector) -> bool:
    # A reset of many Atari games takes seconds.
    return atari.is_atari(config.env) or "lives" in vector.reset()[1]


def _make(config: Config, num_envs: int, rendered: bool, watch: Watch) -> _Vector:
    if config.vectorization == "envpool":
        return envpool.make_vector(config, num_envs)
    environment_ids.register(config.env)
    if atari.is_atari(config.env):
        return atari.make_vector(
            config, num_envs, AUTORESET[config.autoreset], watch, rendered=rendered
        )
    own_class = config.vectorization == "vector_entry_point"
    if own_class and (config.obs_key or config.greyscale or config.resize):
        raise EnvironmentFault(
            f"the vector class of {config.env} knows no obs_key, greyscale or resize: take "
            'vectorization = "sync" or "async"'
        )
    if rendered:
        _require_pictures(config.env)
    mode = {"autoreset_mode": AUTORESET[config.autoreset]}
    wrappers: list[Any] = [] if own_class else [functools.partial(as_array, config=config)]
    wrappers += watch.single_wrappers(config.vectorization)
    return gym.make_vec(
        config.env,
        num_envs=num_envs,
        vectorization_mode=config.vectorization,
        vector_kwargs={} if own_class else mode | watch.vector_kwargs(config.vectorization),
        wrappers=wrappers,
        **(mode if own_class and _vector_class_takes(config.env, "autoreset_mode") else {}),
        **config.env_kwargs | ({"render_mode": "rgb_array"} if rendered else {}),
    )


def _require_pictures(name: str) -> None:
    """Raises EnvironmentFault when the environment's class says that it draws none."""
    entry_point = _spec(name).entry_point
    if entry_point is None:
        raise EnvironmentFault(f"{name} has nothing but a vector class, which renders no pictures")
    creator: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    metadata = getattr(creator, "metadata", None)
    modes = metadata.get("render_modes", ()) if isinstance(metadata, dict) else ("rgb_array",)
    if "rgb_array" not in modes:
        has = f"of its render modes ({', '.join(modes)}) none is" if modes else "it has no"
        raise EnvironmentFault(f"{has} rgb_array")


def _vector_class_takes(name: str, argument: str) -> bool:
    """Whether the environment's own vector class has an argument of that name."""
    entry_point = _spec(name).vector_entry_point
    creator: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return creator is not None and argument in inspect.signature(creator).parameters


def _spec(name: str) -> Any:
    """What Gymnasium knows of an id, whose module is imported first if it names one."""
    module, _, env_id = name.rpartition(":")
    if module:
        importlib.import_module(module)
    return gym.spec(env_id)


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
    if (
        not isinstance(observations, gym.spaces.Box)
        or not is_array(observations)
        or 0 in observations.shape
    ):
        is_flattened = isinstance(vector.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        raise EnvironmentFault(
            f"observation space {observations} is not supported: "
            f"{_TAKES if is_flattened else _TAKES_OF_VECTOR_CLASSES}"
        )
    return EnvSpec(observations.shape, _storage_dtype(observations).str, int(actions.n))


def action_offset(vector: _Vector) -> int:
    """The environment's first action: zapex counts actions from 0."""
    space = vector.single_action_space
    return int(space.start) if isinstance(space, gym.spaces.Discrete) else 0


def _storage_dtype(space: gym.spaces.Box) -> np.dtype[Any]:
    dtype = np.dtype(space.dtype)
    if dtype == np.float64:
        return np.dtype(np.float32)
    if dtype.kind in "iu":
        low, high = int(space.low.min()), int(space.high.max())
        is_image = len(space.shape) >= 2
        for smaller in map(np.dtype, ("u1", "i1", "<u2", "<i2", "<u4", "<i4")[is_image:]):
            bounds = np.iinfo(smaller)
            if smaller.itemsize < dtype.itemsize and bounds.min <= low and high <= bounds.max:
                return smaller
    return dtype


def _fault(config: Config, error: Exception, watch: Watch) -> EnvironmentFault:
    name = config.env
    if isinstance(error, EnvironmentFault):
        return error
    if isinstance(error, Misbehaved):
        return watch.fault(error.what, error.place)
    if isinstance(error, gym.error.DependencyNotInstalled):
        said = str(error).lower()
        extra = next((extra for word, extra in _EXTRAS.items() if word in said), None)
        how = environment_ids.how_to_install(extra) if extra else "install it"
        return EnvironmentFault(f"{name} needs a package that is not installed ({error}): {how}")
    if isinstance(error, (gym.error.UnregisteredEnv, ModuleNotFoundError)):
        hint = environment_ids.suggestion(name)
        said = str(error).partition(" Did you mean")[0] if hint else str(error)
        return EnvironmentFault(
            f"unknown environment {name!r}: {said.rstrip('.')}. {hint} Give a Gymnasium id, or "
            "module:EnvId with the module on this process's Python path"
        )
    made = watch.place_being_made.text(watch.first_env_index)
    return EnvironmentFault(
        f"cannot make {name} with {config.env_kwargs or 'no arguments'}: "
        f"{type(error).__name__}: {error} ({made})"
    )
