"""What the network sees: each environment's newest S observations.

A stack does not reach back beyond its episode's first observation, which is repeated instead; the
replay stacks rows of blocks by the same rule (`common/transitions.py`).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.spec import EnvSpec


class FrameStack:
    """The stacks of E environments."""

    def __init__(self, num_envs: int, spec: EnvSpec, frame_stack: int) -> None:
        self._frame_stack = frame_stack
        self._frames = np.zeros((num_envs, frame_stack, *spec.obs_shape), spec.dtype)

    def push(self, obs: npt.NDArray[Any], first: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """The next observations [E, *obs_shape]; `first` [E]: they begin an episode.

        Returns the stacks, [E, S, *obs_shape], valid until the next push; for S = 1 the
        observations themselves.
        """
        if self._frame_stack == 1:
            return obs
        frames = self._frames
        frames[:, :-1] = frames[:, 1:]
        frames[:, -1] = obs
        if first.any():
            frames[first] = obs[first, None]
        return frames

    def with_final(self, envs: npt.NDArray[np.int64], obs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The stacks of some environments [K] if `obs` [K, *obs_shape] came next in their episodes,
        [K, S, *obs_shape], or [K, *obs_shape] for S = 1. Nothing is pushed."""
        if self._frame_stack == 1:
            return obs
        return np.concatenate([self._frames[envs, 1:], obs[:, None]], axis=1)
