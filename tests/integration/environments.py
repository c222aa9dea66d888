"""Environments for whole runs, by id: `tests.integration.environments:Paced-v0`.

Other processes load them by that name, so everything they need to know is in their arguments.
"""

import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

Observation = npt.NDArray[np.float32]


class Paced(gym.Env[Observation, int]):
    """Episodes of `length` steps that are slow, for ever or as long as the file `hold` exists.

    A run can thus be held up, alive, until a test has done what it wants to do meanwhile.
    """

    observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)  # type: ignore[assignment]

    def __init__(self, length: int = 10, delay_s: float = 0.05, hold: str | None = None) -> None:
        self._length, self._delay_s = length, delay_s
        self._hold = Path(hold) if hold else None
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if self._hold is None or self._hold.exists():
            time.sleep(self._delay_s)
        self._step += 1
        return self._observe(), float(action), self._step == self._length, False, {}

    def _observe(self) -> Observation:
        return np.array([1.0, self._step / self._length], np.float32)


class Slow(Paced):
    """Making it and its first reset take `delay_s`, its fifth step takes `step_s`."""

    def __init__(self, delay_s: float = 0.0, step_s: float = 0.0) -> None:
        super().__init__(delay_s=0.0)
        self._reset_s, self._step_s, self._steps = delay_s, step_s, 0
        time.sleep(delay_s)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        time.sleep(self._reset_s)
        self._reset_s = 0.0
        return super().reset(seed=seed, options=options)

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        if self._steps == 5:
            time.sleep(self._step_s)
        return super().step(action)


class Steered(Paced):
    """Its actions are numbers on a line: not for Q-learning."""

    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)  # type: ignore[assignment]


class Growing(Paced):
    """Its observations are sequences of any length."""

    observation_space = gym.spaces.Sequence(gym.spaces.Discrete(2))  # type: ignore[assignment]


class Unequipped(Paced):
    """Needs a package that nobody installed."""

    def __init__(self) -> None:
        raise gym.error.DependencyNotInstalled(
            'Box2D is not installed, run `pip install "gymnasium[box2d]"`'
        )


for _cls in (Paced, Slow, Steered, Growing, Unequipped):
    gym.register(f"{_cls.__name__}-v0", entry_point=f"{__name__}:{_cls.__name__}")
