"""An environment whose observations say which step of whom they are."""

import os
import secrets
import struct
import time
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

Observation = npt.NDArray[np.uint8]
LABEL = struct.Struct("<III")
"""What an observation begins with: process, environment, and observations before this one."""
_EPISODE_STEPS = 100
_NOISE_BYTES = 1 << 18


class Numbered(gym.Env[Observation, int]):
    """Counts its observations, over all episodes; the rest of each is noise that nothing can
    compress.

    Args:
        shape: of an observation.
        delay_s: how long a step takes.
    """

    action_space = gym.spaces.Discrete(2)  # type: ignore[assignment]

    def __init__(self, shape: tuple[int, ...] = (16,), delay_s: float = 0.005) -> None:
        self.observation_space = gym.spaces.Box(0, 255, tuple(shape), np.uint8)
        self._delay_s = delay_s
        self._environment = secrets.randbits(32)
        self._seen = 0
        self._step = 0
        # So long that what compresses observations has forgotten the last when one comes again.
        self._noise = np.frombuffer(secrets.token_bytes(_NOISE_BYTES), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        time.sleep(self._delay_s)
        self._step += 1
        return self._observe(), float(action), False, self._step == _EPISODE_STEPS, {}

    def _observe(self) -> Observation:
        shape = self.observation_space.shape
        assert shape is not None
        size = int(np.prod(shape))
        start = self._seen * size % (_NOISE_BYTES - size)
        obs = self._noise[start : start + size].copy()
        label = LABEL.pack(os.getpid(), self._environment, self._seen)
        obs[: LABEL.size] = np.frombuffer(label, np.uint8)
        self._seen += 1
        return obs.reshape(shape)


gym.register("Numbered-v0", entry_point=f"{__name__}:Numbered", disable_env_checker=True)
