"""Atari games (ids ALE/*), one frame for each step and environment, in two ways.

`vector_entry_point` is ale-py's vector environment in C++. `sync` and `async` are Gymnasium's
AtariPreprocessing around single games: slower, and the reference that the first is tested against,
frame by frame. EnvPool is a third (`common/envpool.py`). One protocol drives them all.
"""

import difflib
import functools
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.config import Config, explain
from common.errors import EnvironmentFault
from common.watched_vector import Watch

_Vector = VectorEnv[Any, Any, Any]


class AtariProtocol(BaseModel):
    """How a game is played: the entries of `env_kwargs`, in the words of ale-py's vector class.
    Defaults are the sticky actions of Machado et al. (2018), and for the rest those of Dopamine
    (Castro et al. 2018): four frames for each step, minimal actions, at most half an hour."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    frameskip: Annotated[int, Field(ge=1)] = 4
    """Emulator frames for which an action is repeated; their rewards are summed."""
    maxpool: bool = True
    """Each pixel is the brighter one of a step's last two frames: games draw some sprites in every
    other frame only."""
    repeat_action_probability: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Sticky actions: how likely an emulator frame keeps the action of the one before."""
    noop_max: Annotated[int, Field(ge=0)] = 0
    """An episode begins with emulator frames without action: at most this many, at random."""
    use_fire_reset: bool = False
    """An episode begins with FIRE, where the game has it."""
    max_num_frames_per_episode: Annotated[int, Field(ge=1)] = 108_000
    """Emulator frames after which an episode is truncated: half an hour at 60 Hz."""
    full_action_space: bool = False
    """All 18 actions rather than those that do something in this game."""
    num_threads: Annotated[int, Field(ge=1)] = 1
    """Threads that step the environments of one actor. Several cost as much CPU time as one; with
    one, an actor keeps to one core, and there can be as many actors as cores."""


_SETTLED = {
    "stack_num": (1, "frames are stacked from blocks: set frame_stack"),
    "reward_clipping": (False, "returns are recorded unclipped: set reward_clip"),
    "episodic_life": (False, "games are played to their end: set life_loss_ends_episode"),
    "life_loss_info": (False, "games are played to their end: set life_loss_ends_episode"),
    "continuous": (False, "zapex learns Q-values of Discrete actions"),
    "batch_size": (0, "all environments of an actor are stepped together"),
    "img_height": (None, "set resize = [height, width]"),
    "img_width": (None, "set resize = [height, width]"),
    "grayscale": (None, "set greyscale"),
}
"""Arguments of ale-py's vector environment that are settled otherwise: the value that may be given
nevertheless, and what is settled how."""


def register() -> None:
    """Make ale_py's ids known to Gymnasium, without its banner for every game."""
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)


def is_atari(env_id: str) -> bool:
    """Whether the id names a game of the Arcade Learning Environment."""
    return env_id.rpartition(":")[2].startswith("ALE/")


def make_vector(
    config: Config,
    num_envs: int,
    autoreset: AutoresetMode,
    watch: Watch,
    *,
    rendered: bool = False,
) -> _Vector:
    """Observations are uint8 [num_envs, height, width], or [num_envs, height, width, 3] in colour.

    Args:
        watch: knows which game is being played.
        rendered: `render`, of which `sync` alone is capable, gives the emulator's frames since it
            was called last, a list for each game.

    Raises EnvironmentFault when env_kwargs are not a protocol that can be played this way.
    """
    protocol = protocol_of(config)
    height, width = config.resize or _screen_size(config.env)
    if config.vectorization == "vector_entry_point":
        return OneFrame(
            gym.make_vec(
                config.env,
                num_envs=num_envs,
                vectorization_mode="vector_entry_point",
                autoreset_mode=autoreset,
                stack_num=1,
                reward_clipping=False,
                img_height=height,
                img_width=width,
                grayscale=config.greyscale,
                # It draws from 0 … noop_max − 1.
                **protocol.model_dump() | {"noop_max": protocol.noop_max + 1},
            )
        )
    if protocol.use_fire_reset or not protocol.maxpool:
        raise EnvironmentFault(
            f"use_fire_reset = true and maxpool = false of {config.env} need vectorization = "
            '"vector_entry_point": Gymnasium\'s preprocessing has neither'
        )
    wrappers: list[Any] = [
        functools.partial(
            gym.wrappers.AtariPreprocessing,
            noop_max=protocol.noop_max,
            frame_skip=protocol.frameskip,
            screen_size=(width, height),
            grayscale_obs=config.greyscale,
        ),
        *watch.single_wrappers(config.vectorization),
    ]
    return gym.make_vec(
        config.env,
        num_envs=num_envs,
        vectorization_mode=config.vectorization,
        vector_kwargs={"autoreset_mode": autoreset} | watch.vector_kwargs(config.vectorization),
        wrappers=wrappers,
        frameskip=1,
        repeat_action_probability=protocol.repeat_action_probability,
        full_action_space=protocol.full_action_space,
        max_num_frames_per_episode=protocol.max_num_frames_per_episode,
        # Gymnasium's RenderCollection, around the game and below its preprocessing.
        render_mode="rgb_array_list" if rendered else None,
    )


def protocol_of(config: Config) -> AtariProtocol:
    """The protocol that env_kwargs spell out.

    Raises EnvironmentFault for an entry that is unknown, impossible, or settled elsewhere.
    """
    if config.obs_key is not None:
        raise EnvironmentFault(f"{config.env} observes nothing but images: leave obs_key out")
    values = dict(config.env_kwargs)
    for key, value in config.env_kwargs.items():
        where = f"env_kwargs of {config.env}: {key} = {value!r}"
        if key in _SETTLED:
            settled, how = _SETTLED[key]
            if value != settled:
                raise EnvironmentFault(f"{where} is not taken: {how}")
            del values[key]
        elif key not in AtariProtocol.model_fields:
            near = difflib.get_close_matches(key, AtariProtocol.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "see common/atari.py"
            raise EnvironmentFault(f"{where} is unknown; {hint}")
    try:
        return AtariProtocol.model_validate(values)
    except ValidationError as error:
        raise EnvironmentFault(f"env_kwargs of {config.env}: {explain(error)}") from error


class OneFrame(VectorWrapper[Any, Any, Any]):
    """A vector environment that stacks frames, of which there is but one: without that axis."""

    def __init__(self, env: _Vector) -> None:
        super().__init__(env)
        stacked = env.single_observation_space
        assert isinstance(stacked, gym.spaces.Box)
        assert stacked.shape[0] == 1
        self.single_observation_space = gym.spaces.Box(0, 255, stacked.shape[1:], np.uint8)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return obs[:, 0], info

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[
        npt.NDArray[np.uint8],
        npt.NDArray[np.float64],
        npt.NDArray[np.bool_],
        npt.NDArray[np.bool_],
        dict[str, Any],
    ]:
        obs, reward, terminated, truncated, info = self.env.step(actions)
        if "final_obs" in info:
            info["final_obs"] = info["final_obs"][:, 0]
            info["_final_obs"] = terminated | truncated
        return obs[:, 0], reward.astype(np.float64), terminated, truncated, info


def _screen_size(env_id: str) -> tuple[int, int]:
    """Height and width of the game's screen, in pixels; most are 210 × 160."""
    env = gym.make(env_id)
    shape = env.observation_space.shape
    env.close()
    assert shape is not None
    return shape[0], shape[1]
