"""Small environments with known dynamics, by Gymnasium id: `tests.environments:Ledger-v0`."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

Observation = npt.NDArray[np.float32]
Step = tuple[Any, float, bool, bool, dict[str, Any]]
"""observation, reward, terminated, truncated, info"""

EPISODES = ((3, "terminated"), (1, "truncated"), (5, "truncated"), (1, "terminated"), (4, "both"))
"""Length and ending of the episodes of a Ledger, in turn."""


class Ledger(gym.Env[Observation, int]):
    """Every observation says where it is: [seed, episode, step, the action that led here].

    Episode e of seed s is `episodes[(s + e) % len(episodes)]`. The reward tells everything too:
    100·episode + 10·step + action, negative for odd seeds. A step after the end raises.

    Args:
        in_place: every observation is the same array, with other numbers.
        chatty: its infos have entries that those of other seeds and steps do not match.
    """

    def __init__(
        self,
        episodes: Sequence[tuple[int, str]] = EPISODES,
        num_actions: int = 3,
        first_action: int = 0,
        in_place: bool = False,
        chatty: bool = False,
    ) -> None:
        self._chatty = chatty
        self._buffer = np.zeros(4, np.float32) if in_place else None
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(num_actions, start=first_action)
        self._episodes = episodes
        self._first_action = first_action
        self._seed, self._episode, self._step = 0, -1, 0
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        if seed is not None:
            self._seed, self._episode = seed, -1
        self._episode += 1
        self._step, self._over = 0, False
        return self._observe(action=-1), self._info()

    def step(self, action: int) -> Step:
        if self._over:
            raise RuntimeError("a step after the episode's end")
        if action not in self.action_space:
            raise ValueError(f"action {action} is not in {self.action_space}")
        action = int(action) - self._first_action
        reward = 100.0 * self._episode + 10.0 * self._step + action
        self._step += 1
        length, ending = self._episodes[(self._seed + self._episode) % len(self._episodes)]
        self._over = self._step == length
        terminated = self._over and ending in ("terminated", "both")
        truncated = self._over and ending in ("truncated", "both")
        sign = -1.0 if self._seed % 2 else 1.0
        return self._observe(action), sign * reward, terminated, truncated, self._info()

    def _info(self) -> dict[Any, Any]:
        if not self._chatty:
            return {}
        odd = self._seed % 2
        return {
            "winner": 3 if odd else None,
            "lives": 3 if odd else "many",
            "legal": np.arange(1 + self._seed % 5 + self._step),
            "nested": {"winner": 3} if odd else 3.0,
            1: "not a name",
        }

    def _observe(self, action: int) -> Observation:
        told = np.array([self._seed, self._episode, self._step, action], np.float32)
        if self._buffer is None:
            return told
        self._buffer[:] = told
        return self._buffer


class Painted(Ledger):
    """A Ledger to look at: its picture is its observation, four grey bars of seed, episode, step
    and action + 1. After the step `blank_after` its picture is None."""

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self, render_mode: str | None = None, blank_after: int = 1_000, **ledger: Any
    ) -> None:
        super().__init__(**ledger)
        self.render_mode = render_mode
        self._blank_after = blank_after

    def render(self) -> Any:
        if self._step > self._blank_after:
            return None
        told = np.array([[[self._seed], [self._episode], [self._step], [self._action + 1]]])
        return np.broadcast_to(told % 256, (3, 4, 3)).astype(np.uint8)

    def _observe(self, action: int) -> Observation:
        self._action = action
        return super()._observe(action)


GAMES = (
    ("..-.", "terminated"),
    ("-.+--", "terminated"),
    ("...", "truncated"),
    ("..-", "terminated"),
)
"""What happens in each step of the games of a Film, and how they end."""


class Film(gym.Env[npt.NDArray[np.uint8], int]):
    """Every picture says where it was taken: [seed, game, step, lives, action that led here + 1,
    pictures taken since the seed was set], each modulo 256.

    Game g of seed s is `games[(s + g) % len(games)]`: a step for each of its signs, which costs a
    life (-), wins one (+) or does neither (.). A step after the end raises.
    """

    def __init__(
        self,
        games: Sequence[tuple[str, str]] = GAMES,
        picture_shape: Sequence[int] = (2, 3),
        num_actions: int = 3,
    ) -> None:
        self.observation_space = gym.spaces.Box(0, 255, tuple(picture_shape), np.uint8)
        self.action_space = gym.spaces.Discrete(num_actions)
        self._games, self._shape = games, tuple(picture_shape)
        self._seed, self._game, self._pictures = 0, -1, 0
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        if seed is not None:
            self._seed, self._game, self._pictures = seed, -1, 0
        self._game += 1
        self._step, self._lives, self._over = 0, 3, False
        return self._take_picture(action=-1), {"lives": self._lives}

    def step(self, action: int) -> Step:
        if self._over:
            raise RuntimeError("a step after the game's end")
        signs, ending = self._games[(self._seed + self._game) % len(self._games)]
        self._lives += {"-": -1, ".": 0, "+": 1}[signs[self._step]]
        reward = float((7 * self._game + 3 * self._step) % 16 + action)
        self._step += 1
        self._over = self._step == len(signs)
        terminated = self._over and ending in ("terminated", "both")
        truncated = self._over and ending in ("truncated", "both")
        picture = self._take_picture(int(action))
        return picture, reward, terminated, truncated, {"lives": self._lives}

    def _take_picture(self, action: int) -> npt.NDArray[np.uint8]:
        self._pictures += 1
        told = [self._seed, self._game, self._step, self._lives, action + 1, self._pictures]
        return (np.array(told) % 256).astype(np.uint8).reshape(self._shape)


class Spaces(gym.Env[Any, Any]):
    """Samples of any observation space; takes any action space; an episode lasts one step."""

    def __init__(
        self,
        observations: gym.Space[Any] | None = None,
        actions: gym.Space[Any] | None = None,
    ) -> None:
        self.observation_space = observations or gym.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = actions or gym.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Step:
        return self.observation_space.sample(), 0.0, True, False, {}


class DisabledAutoreset(VectorEnv[Any, Any, Any]):
    """A vector environment that leaves it to its user to start finished episodes over."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, num_envs: int = 1, **_: Any) -> None:
        self.num_envs = num_envs
        self.single_observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.single_action_space = gym.spaces.Discrete(2)


class SilentAutoreset(DisabledAutoreset):
    """A vector environment that does not say how it starts finished episodes over."""

    metadata = {}  # noqa: RUF012


SUCCESSORS = np.array(
    # P(s' | s, a): [state, action, next state]; states 4 and 5 are terminal.
    [
        [[0.0, 0.8, 0.2, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]],
        [[0.5, 0.0, 0.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]],
        [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.7, 0.0, 0.3]],
        [[0.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]],
        [[0.0, 0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]],
        [[0.0, 0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]],
    ]
)
REWARDS = np.array([[0.0, -0.5], [0.25, 1.0], [0.0, 0.5], [-0.25, 2.0], [0.0, 0.0], [0.0, 0.0]])
"""r(s, a) of the tabular MDP."""
TERMINAL = (4, 5)


class Tabular(gym.Env[np.int64, int]):
    """The MDP of SUCCESSORS and REWARDS: the observation is the state. Episodes begin anywhere."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Discrete(len(SUCCESSORS))
        self.action_space = gym.spaces.Discrete(SUCCESSORS.shape[1])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        starts = [s for s in range(len(SUCCESSORS)) if s not in TERMINAL]
        self._state = int(self.np_random.choice(starts))
        return np.int64(self._state), {}

    def step(self, action: int) -> Step:
        reward = float(REWARDS[self._state, action])
        successors = SUCCESSORS[self._state, action]
        self._state = int(self.np_random.choice(len(successors), p=successors))
        return np.int64(self._state), reward, self._state in TERMINAL, False, {}


def _register() -> None:
    for cls in (Ledger, Painted, Film, Spaces, Tabular):
        gym.register(
            f"{cls.__name__}-v0", entry_point=f"{__name__}:{cls.__name__}", disable_env_checker=True
        )
    for vector in (DisabledAutoreset, SilentAutoreset):
        gym.register(f"{vector.__name__}-v0", vector_entry_point=f"{__name__}:{vector.__name__}")


_register()
