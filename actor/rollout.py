"""A vector environment played ε-greedily, turned into streams of rows and those into blocks.

The two ways in which Gymnasium starts a finished environment over are told apart here and nowhere
else. NEXT_STEP: the step that ends an episode returns its final observation; the next step's action
is ignored and its observation is the new episode's first. That is exactly one row per call.
SAME_STEP: the ending step returns the new first observation at once, and the final one in `info`,
which makes two rows of one call.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from actor.blocks import BlockBuilder, Blocks
from actor.exploration import epsilon_greedy
from actor.frame_stack import FrameStack
from common.blocks import RowKind
from common.environments import action_offset, autoreset_mode
from common.errors import EnvironmentFault
from common.manifest import Manifest

QFunction = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]

_FIRST, _STEP = np.uint8(RowKind.FIRST), np.uint8(RowKind.STEP)
_MAX_REWARD = float(np.finfo(np.float32).max)
_TERMINATED, _TRUNCATED = np.uint8(RowKind.TERMINATED), np.uint8(RowKind.TRUNCATED)


class Rollout:
    """E environments, each one stream.

    Args:
        q_function: Q-values [N, A] of observations [N, *obs_shape], or of stacks
            [N, S, *obs_shape].
        seed: of the environments' first reset.
    """

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        manifest: Manifest,
        q_function: QFunction,
        rng: np.random.Generator,
        seed: int,
    ) -> None:
        config, self._spec = manifest.config, manifest.spec
        self._vector = vector
        self._env = config.env
        self._q_function = q_function
        self._rng = rng
        self._clip = config.reward_clip
        self._same_step = autoreset_mode(vector) is AutoresetMode.SAME_STEP
        self._action_offset = action_offset(vector)
        self.num_envs = vector.num_envs
        self._streams = np.arange(self.num_envs)
        self._builder = BlockBuilder(self.num_envs, manifest.spec, manifest.layout, config.discount)
        self._return = np.zeros(self.num_envs)
        self._length = np.zeros(self.num_envs, np.int64)
        self.env_steps = 0
        """Environment steps taken, the ignored ones of NEXT_STEP not counted."""
        self.finished_returns: list[float] = []
        self.finished_lengths: list[int] = []
        self._stack = FrameStack(self.num_envs, self._spec, config.frame_stack)
        self._life_loss = config.life_loss_ends_episode
        obs, info = self._call("reset", lambda: vector.reset(seed=seed))
        self._lives = self._lives_in(info) if self._life_loss else np.zeros(self.num_envs, np.int64)
        self._obs = self._checked(obs)
        self._row_kind = np.full(self.num_envs, _FIRST)

    def step(self, epsilon: npt.NDArray[np.float64]) -> list[Blocks]:
        """One step of all environments; returns the blocks it completed.

        Raises EnvironmentFault when the environment raises or returns what it must not.
        """
        q_values = self._q_function(self._stack.push(self._obs, self._row_kind == _FIRST))
        complete = [self._builder.see(self._streams, self._obs, self._row_kind, q_values)]
        action = epsilon_greedy(q_values, epsilon, self._rng)
        next_obs, reward, terminated, truncated, info = self._call(
            "step", lambda: self._vector.step(action + self._action_offset)
        )
        # A stream whose newest row was an episode's last has only been reset by this step.
        acted = (self._row_kind & RowKind.LAST) == 0
        if acted.all():
            streams = self._streams
        else:
            streams = np.flatnonzero(acted)
            action, reward = action[streams], reward[streams]
        self._record(streams, action, reward)
        ended = np.where(terminated, _TERMINATED, np.where(truncated, _TRUNCATED, _STEP))
        done = streams[ended[streams] != _STEP]
        if len(done):
            self._finish_episodes(done)
        next_obs = self._checked(next_obs)
        if self._same_step:
            if len(done):
                complete.append(self._see_final(done, ended[done], info))
            self._row_kind = np.where(ended != _STEP, _FIRST, _STEP)
        else:
            self._row_kind = np.where(acted, ended, _FIRST)
        if self._life_loss:
            lives = self._lives_in(info)
            lost = np.flatnonzero(acted & (ended == _STEP) & (lives < self._lives))
            if len(lost):
                complete.append(self._see_life_lost(lost, next_obs[lost]))
            self._lives = lives
        self._obs = next_obs
        return [blocks for blocks in complete if blocks is not None]

    def _lives_in(self, info: dict[str, Any]) -> npt.NDArray[np.int64]:
        if "lives" not in info:
            raise EnvironmentFault(
                f"{self._env} did not tell info['lives'] after {self.env_steps} steps of this "
                "actor: life_loss_ends_episode must be false"
            )
        # A copy: the environment may write the next lives into the same array.
        return np.array(info["lives"], np.int64)

    def _see_life_lost(
        self, streams: npt.NDArray[np.int64], obs: npt.NDArray[Any]
    ) -> Blocks | None:
        """The game goes on, but for the learner an episode ends here and another one begins, with
        the same observation: two rows."""
        self._row_kind[streams] = _FIRST
        # Nobody bootstraps from the end of an episode.
        no_values = np.zeros((len(streams), self._spec.num_actions), np.float32)
        return self._builder.see(streams, obs, np.full(len(streams), _TERMINATED), no_values)

    def _record(
        self,
        streams: npt.NDArray[np.int64],
        action: npt.NDArray[np.int64],
        reward: npt.NDArray[np.float64],
    ) -> None:
        storable = np.abs(reward) <= _MAX_REWARD  # False for NaN too.
        if not storable.all():
            bad = reward[~storable][0]
            raise EnvironmentFault(f"{self._env} returned a reward that is not finite: {bad}")
        self.env_steps += len(streams)
        self._return[streams] += reward
        self._length[streams] += 1
        if self._clip is not None:
            reward = np.clip(reward, -self._clip, self._clip)
        self._builder.act(streams, action, reward)

    def _finish_episodes(self, done: npt.NDArray[np.int64]) -> None:
        self.finished_returns += self._return[done].tolist()
        self.finished_lengths += self._length[done].tolist()
        self._return[done] = 0.0
        self._length[done] = 0

    def _see_final(
        self, done: npt.NDArray[np.int64], row_kind: npt.NDArray[np.uint8], info: dict[str, Any]
    ) -> Blocks | None:
        if "final_obs" not in info:
            raise EnvironmentFault(f"{self._env} ended an episode without info['final_obs']")
        final_obs = self._checked(np.stack([info["final_obs"][i] for i in done]))
        q_values = self._q_function(self._stack.with_final(done, final_obs))
        return self._builder.see(done, final_obs, row_kind, q_values)

    def _checked(self, obs: Any) -> npt.NDArray[Any]:
        array = np.asarray(obs)
        if array.shape[1:] != self._spec.obs_shape:
            raise EnvironmentFault(
                f"{self._env} returned observations of shape {array.shape[1:]}, "
                f"its space says {self._spec.obs_shape}"
            )
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, self._spec.dtype)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
            raise EnvironmentFault(
                f"{self._env} returned an observation that is not finite (environment {bad[0]} of "
                "this actor)"
            )
        return array

    def _call(self, what: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:
            raise EnvironmentFault(
                f"{self._env} raised in {what} after {self.env_steps} steps of this actor: "
                f"{type(error).__name__}: {error}"
            ) from error
