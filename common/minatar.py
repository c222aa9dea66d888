"""MinAtar's games (Young and Tian 2019) as one vector environment.

The games are the package's own, unchanged. But the package's environment imports matplotlib and
seaborn, which takes longer than all the rest of an actor's start, and Gymnasium's vector of it
spends more time than the games do. Here the games are loaded alone and stepped in one loop;
`vectorization = "sync"` plays the same transitions the slow way.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
ACTION_NAMES = ("NOTHING", "LEFT", "UP", "RIGHT", "DOWN", "FIRE")
"""Of all six actions; the package has their first letters."""

Bools = npt.NDArray[np.bool_]


def register() -> None:
    """Make `MinAtar/Breakout-v0` (all six actions), `-v1` (those that do something) and so on known
    to Gymnasium, by the names that the package itself uses."""
    for game in GAMES:
        for version, minimal in (("v0", False), ("v1", True)):
            env_id = f"MinAtar/{game.title().replace('_', '')}-{version}"
            if env_id not in gym.registry:
                gym.register(
                    env_id,
                    entry_point="minatar.gym:BaseEnv",
                    vector_entry_point=f"{__name__}:MinAtarVector",
                    # The checker warns of the package's spaces.
                    disable_env_checker=True,
                    kwargs={"game": game, "use_minimal_action_set": minimal},
                )


class MinAtarVector(VectorEnv[Bools, npt.NDArray[np.integer[Any]], npt.NDArray[Any]]):
    """`num_envs` games of one kind; observations are bool [num_envs, 10, 10, channels].

    Args:
        game: one of GAMES.
        use_minimal_action_set: leave out the actions that do nothing in this game.
        sticky_action_prob: probability that a step repeats the action before it.
        difficulty_ramping: the game gets faster the longer it lasts, where it can.
        max_episode_steps: a game that lasts so many steps is truncated; None: it ends by itself.
    """

    def __init__(
        self,
        num_envs: int,
        game: str,
        use_minimal_action_set: bool = True,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        if not 0.0 <= sticky_action_prob <= 1.0:
            raise ValueError(f"sticky_action_prob = {sticky_action_prob}: must be from 0 to 1")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps = {max_episode_steps}: must be at least 1")
        make_game = game_module(game).Env
        self._games = [make_game(ramping=difficulty_ramping) for _ in range(num_envs)]
        actions = self._games[0].minimal_action_set() if use_minimal_action_set else range(6)
        self._actions = np.fromiter(actions, np.int64)
        self._sticky = sticky_action_prob
        self._max_steps = np.inf if max_episode_steps is None else max_episode_steps
        self._same_step = autoreset_mode is AutoresetMode.SAME_STEP
        self.metadata = {"autoreset_mode": autoreset_mode, "render_modes": []}
        self.num_envs = num_envs
        self.single_observation_space = gym.spaces.Box(
            0, 1, tuple(self._games[0].state_shape()), np.bool_
        )
        self.single_action_space = gym.spaces.Discrete(len(self._actions))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._batch_shape = (num_envs, *self.single_observation_space.shape)
        self._draws = [np.random.RandomState() for _ in range(num_envs)]
        self._last_action = [0] * num_envs
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._over = [False] * self.num_envs
        self._steps = [0] * self.num_envs

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Bools, dict[str, Any]]:
        """Starts all games over. Game i is seeded with seed + i, or with the i-th of several seeds;
        without a seed, its random numbers go on."""
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        for i, one in enumerate(seeds or ()):
            if one is not None:
                # As in the package, one generator draws for the game and for its sticky actions.
                self._draws[i] = self._games[i].random = np.random.RandomState(one)
        for game in self._games:
            game.reset()
        self._begin_anew()
        obs = np.empty(self._batch_shape, np.bool_)
        for i, game in enumerate(self._games):
            obs[i] = game.state()
        return obs, {}

    def step(
        self, actions: npt.NDArray[np.integer[Any]]
    ) -> tuple[Bools, npt.NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        """MinAtar's games end by themselves: only `max_episode_steps` truncates."""
        obs = np.empty(self._batch_shape, np.bool_)
        rewards = np.zeros(self.num_envs)
        over, last_action, sticky = self._over, self._last_action, self._sticky
        steps = self._steps
        action_of = self._actions[actions].tolist()
        for i, (game, draws) in enumerate(zip(self._games, self._draws, strict=True)):
            if over[i]:  # NEXT_STEP: this step's action is ignored.
                game.reset()
                over[i], steps[i] = False, 0
            else:
                # The package keeps the last action across the start of a new game.
                if not draws.rand() < sticky:
                    last_action[i] = action_of[i]
                rewards[i], over[i] = game.act(last_action[i])
                steps[i] += 1
            obs[i] = game.state()
        terminated, truncated = np.array(over), np.array(steps) >= self._max_steps
        ended = terminated | truncated
        self._over = ended.tolist()
        info: dict[str, Any] = {}
        if self._same_step and ended.any():
            info = self._start_over(obs, ended)
        return obs, rewards, terminated, truncated, info

    def _start_over(self, obs: Bools, ended: Bools) -> dict[str, Any]:
        """SAME_STEP: new games take the place of those that ended, whose last observations go into
        an array of objects, as in Gymnasium's own vector environments."""
        final_obs = np.full(self.num_envs, None, object)
        for i in np.flatnonzero(ended):
            final_obs[i] = obs[i].copy()
            self._games[i].reset()
            obs[i] = self._games[i].state()
            self._over[i], self._steps[i] = False, 0
        return {"final_obs": final_obs, "_final_obs": ended}


def game_module(game: str) -> ModuleType:
    """The module of one game, without the package around it."""
    package = importlib.util.find_spec("minatar")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "environments" / f"{game}.py"
    spec = importlib.util.spec_from_file_location(f"minatar.environments.{game}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
