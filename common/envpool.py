"""EnvPool (Weng et al. 2022), an optional package, as a vector environment like the others.

EnvPool takes its seeds when it is made, so it is made at the first reset, and made anew by every
reset that brings a seed. It starts finished environments over with the step after (NEXT_STEP).
"""

import difflib
import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from common import atari, environment_ids
from common.config import Config
from common.errors import EnvironmentFault


def make_vector(config: Config, num_envs: int) -> VectorEnv[Any, Any, Any]:
    """Atari games and whatever else EnvPool has under the environment's name.

    Raises EnvironmentFault when EnvPool does not have it, or cannot play it as configured.
    """
    if importlib.util.find_spec("envpool") is None:
        raise EnvironmentFault(
            'vectorization = "envpool" needs the package envpool, which is not installed: '
            f"{environment_ids.how_to_install('envpool')}"
        )
    if atari.is_atari(config.env):
        task, options = config.env.rpartition("/")[2], _atari_options(config)
    elif config.obs_key or config.greyscale or config.resize:
        raise EnvironmentFault(
            f"EnvPool knows no obs_key, greyscale or resize for {config.env}: take "
            'vectorization = "sync" or "async"'
        )
    else:
        task, options = config.env, {"num_threads": 1, **config.env_kwargs}
    _require(task, config.env)
    vector = EnvPoolVector(task, num_envs, options)
    return atari.OneFrame(vector) if atari.is_atari(config.env) else vector


class EnvPoolVector(VectorEnv[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]):
    """`num_envs` environments of one task.

    Args:
        options: of `envpool.make`.
    """

    def __init__(self, task: str, num_envs: int, options: dict[str, Any]) -> None:
        import envpool

        spec = envpool.make_spec(task, **options)
        self._task, self._options = task, options
        self._pool: Any = None
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = num_envs
        self.single_observation_space = spec.gymnasium_observation_space
        self.single_action_space = spec.gymnasium_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Starts all environments over; environment i is seeded with seed + i."""
        import envpool

        if seed is not None or self._pool is None:
            self.close_extras()
            first = seed if seed is not None else int(np.random.default_rng().integers(1 << 30))
            self._pool = envpool.make(
                self._task,
                env_type="gymnasium",
                num_envs=self.num_envs,
                seed=[first + i for i in range(self.num_envs)],
                **self._options,
            )
        obs, info = self._pool.reset()
        return obs, _lives(info)

    def step(
        self, actions: npt.NDArray[np.integer[Any]]
    ) -> tuple[
        npt.NDArray[Any],
        npt.NDArray[np.float64],
        npt.NDArray[np.bool_],
        npt.NDArray[np.bool_],
        dict[str, Any],
    ]:
        obs, reward, terminated, truncated, info = self._pool.step(actions)
        return obs, reward.astype(np.float64), terminated, truncated, _lives(info)

    def close_extras(self, **kwargs: Any) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def _lives(info: dict[str, Any]) -> dict[str, Any]:
    """EnvPool's info also holds the console's memory and more that nobody reads."""
    return {"lives": info["lives"]} if "lives" in info else {}


def _atari_options(config: Config) -> dict[str, Any]:
    protocol = atari.protocol_of(config)
    if not protocol.maxpool:
        raise EnvironmentFault(
            f"maxpool = false of {config.env} needs vectorization = "
            '"vector_entry_point": EnvPool always pools'
        )
    if config.resize is None or not config.greyscale:
        raise EnvironmentFault(
            f"EnvPool gives {config.env} resized and grey, or else in another layout than zapex "
            "stores: set resize, such as [84, 84], and greyscale = true"
        )
    height, width = config.resize
    return {
        "stack_num": 1,
        "reward_clip": False,
        "episodic_life": False,
        "img_height": height,
        "img_width": width,
        "gray_scale": True,
        "frame_skip": protocol.frameskip,
        "repeat_action_probability": protocol.repeat_action_probability,
        # EnvPool draws from 1 … noop_max and knows no 0.
        "noop_max": max(protocol.noop_max, 1),
        "use_fire_reset": protocol.use_fire_reset,
        "max_episode_steps": -(-protocol.max_num_frames_per_episode // protocol.frameskip),
        "full_action_space": protocol.full_action_space,
        "num_threads": protocol.num_threads,
    }


def _require(task: str, env_id: str) -> None:
    import envpool

    tasks = envpool.list_all_envs()
    if task not in tasks:
        near = difflib.get_close_matches(task, tasks, n=1)
        hint = f"did you mean {env_id.removesuffix(task)}{near[0]}? " if near else ""
        raise EnvironmentFault(
            f'EnvPool has no {env_id}: {hint}Or take another vectorization, such as "sync"'
        )
