"""A vector environment played ε-greedily, turned into streams of rows and those into blocks.

The two ways in which Gymnasium starts a finished environment over are told apart here and nowhere
else. NEXT_STEP: the step that ends an episode returns its final observation; the next step's action
is ignored and its observation is the new episode's first. That is exactly one row per call.
SAME_STEP: the ending step returns the new first observation at once, and the final one in `info`,
which makes two rows of one call.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from actor.blocks import BlockBuilder, Blocks, Int64Vector
from actor.exploration import epsilon_greedy
from actor.frame_stack import FrameStack
from common.blocks import MAX_REWARD, RowKind
from common.call_cells import ALL
from common.environments import action_offset, autoreset_mode
from common.manifest import Manifest
from common.membership import Episode
from common.trace import NO_TRACE, Trace
from common.watched_vector import watched

QFunction = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]

_FIRST, _STEP = np.uint8(RowKind.FIRST), np.uint8(RowKind.STEP)
_TERMINATED, _TRUNCATED = np.uint8(RowKind.TERMINATED), np.uint8(RowKind.TRUNCATED)
_LAST = np.uint8(RowKind.LAST)
FINITE_REWARD = float(np.finfo(np.float32).max)
"""Beyond this a reward is infinite to the learner."""


class Rollout:
    """E environments, each one stream.

    Args:
        q_function: Q-values [N, A] of observations [N, *obs_shape], or of stacks
            [N, S, *obs_shape].
        seed: of the environments' first reset.
        trace: is told the phases of a step.
    """

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        manifest: Manifest,
        q_function: QFunction,
        rng: np.random.Generator,
        seed: int,
        trace: Trace = NO_TRACE,
    ) -> None:
        self._trace = trace
        config, self._spec = manifest.config, manifest.spec
        self._vector = watched(vector, config.env)
        self._q_function = q_function
        self._rng = rng
        self._clip = config.reward_clip
        self._max_reward = MAX_REWARD if self._clip is None else FINITE_REWARD
        self._same_step = autoreset_mode(vector) is AutoresetMode.SAME_STEP
        self._action_offset = action_offset(vector)
        self.num_envs = vector.num_envs
        self._streams = np.arange(self.num_envs)
        self._blocks_per_insert = manifest.blocks_per_insert()
        self._builder = BlockBuilder(self.num_envs, manifest.spec, manifest.layout, config.discount)
        self._return = np.zeros(self.num_envs)
        self._length = np.zeros(self.num_envs, np.int64)
        self.env_steps = 0
        """Environment steps taken, the ignored ones of NEXT_STEP not counted."""
        self.finished: list[Episode] = []
        """Episodes that ended and were not taken by the owner yet."""
        self._stack = FrameStack(self.num_envs, self._spec, config.frame_stack)
        self._stacked = config.frame_stack > 1
        self._life_loss = config.life_loss_ends_episode
        obs, info = self._vector.reset(seed=seed)
        self._lives = self._lives_in(info) if self._life_loss else np.zeros(self.num_envs, np.int64)
        self._obs = self._vector.checked(obs, self._spec)
        self._row_kind = np.full(self.num_envs, _FIRST)

    def step(self, epsilon: npt.NDArray[np.float64]) -> list[Blocks]:
        """One step of all environments; returns the blocks it completed, as they may be inserted.

        Raises EnvironmentFault when the environment raises or returns what it must not.
        """
        self._trace.phase("inference")
        seen = self._obs
        if self._stacked:
            seen = self._stack.push(seen, self._row_kind == _FIRST)
        q_values = self._q_function(seen)
        self._trace.phase("blocks")
        complete = [self._builder.see(self._streams, self._obs, self._row_kind, q_values)]
        action = epsilon_greedy(q_values, epsilon, self._rng)
        named = action + self._action_offset if self._action_offset else action
        self._trace.phase("environment")
        next_obs, reward, terminated, truncated, info = self._vector.step(named)
        self._trace.phase("blocks")
        # A stream whose newest row was an episode's last has only been reset by this step.
        acted, done, kind = self._record(action, reward, terminated, truncated)
        next_obs = self._vector.checked(next_obs, self._spec)
        if self._same_step:
            if len(done):
                complete.append(self._see_final(done, kind[done], info))
            kind[done] = _FIRST
        self._row_kind = kind
        if self._life_loss:
            lives = self._lives_in(info)
            lost = acted[(kind[acted] == _STEP) & (lives < self._lives)[acted]]
            if len(lost):
                complete.append(self._see_life_lost(lost, next_obs[lost]))
            self._lives = lives
        self._obs = next_obs
        most = self._blocks_per_insert
        return [part for blocks in complete if blocks is not None for part in blocks.parts(most)]

    def _lives_in(self, info: dict[str, Any]) -> Int64Vector:
        if "lives" not in info:
            raise self._vector.fault(
                ALL, "did not tell info['lives']: life_loss_ends_episode must be false"
            )
        # A copy: the environment may write the next lives into the same array.
        return np.array(info["lives"], np.int64)

    def _see_life_lost(self, streams: Int64Vector, obs: npt.NDArray[Any]) -> Blocks | None:
        """The game goes on, but for the learner an episode ends here and another one begins, with
        the same observation: two rows."""
        self._row_kind[streams] = _FIRST
        # Nobody bootstraps from the end of an episode.
        no_values = np.zeros((len(streams), self._spec.num_actions), np.float32)
        return self._builder.see(streams, obs, np.full(len(streams), _TERMINATED), no_values)

    def _record(
        self,
        action: Int64Vector,
        reward: npt.NDArray[np.float64],
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
    ) -> tuple[Int64Vector, Int64Vector, npt.NDArray[np.uint8]]:
        """Put down what a step of all environments [E] did.

        Returns the streams that acted, those whose episode ended, and the kind of every stream's
        new observation [E], in the order of NEXT_STEP.
        """
        acted, done, kind, bad = _outcome(
            self._row_kind,
            reward,
            self._max_reward,
            terminated,
            truncated,
            self._return,
            self._length,
        )
        if bad >= 0:
            what = f"that is not finite: {reward[bad]}"
            if abs(reward[bad]) <= FINITE_REWARD:
                what = f"of {reward[bad]:g}, beyond ±{MAX_REWARD:g}: scale it, or set reward_clip"
            raise self._vector.fault(bad, f"returned a reward {what}")
        if len(acted) < self.num_envs:
            action, reward = action[acted], reward[acted]
        if self._clip is not None:
            reward = reward.clip(-self._clip, self._clip)
        self._builder.act(acted, action, reward)
        self.env_steps += len(acted)
        if len(done):
            self._finish_episodes(done)
        return acted, done, kind

    def _finish_episodes(self, done: Int64Vector) -> None:
        returns, lengths = self._return[done].tolist(), self._length[done].tolist()
        self.finished += map(Episode, returns, lengths, done.tolist())
        self._return[done] = 0.0
        self._length[done] = 0

    def _see_final(
        self, done: Int64Vector, row_kind: npt.NDArray[np.uint8], info: dict[str, Any]
    ) -> Blocks | None:
        if "final_obs" not in info:
            raise self._vector.fault(int(done[0]), "ended an episode without info['final_obs']")
        final_obs = np.stack([info["final_obs"][i] for i in done])
        final_obs = self._vector.checked(final_obs, self._spec, done.tolist())
        q_values = self._q_function(self._stack.with_final(done, final_obs))
        return self._builder.see(done, final_obs, row_kind, q_values)


@numba.njit(cache=True, nogil=True)
def _outcome(  # type: ignore[no-untyped-def]
    row_kind, reward, max_reward, terminated, truncated, returns, lengths
):
    """What `Rollout._record` returns, and the first environment with an impossible reward or −1;
    adds to the running returns and lengths."""
    environments = len(row_kind)
    acted, done = np.empty(environments, np.int64), np.empty(environments, np.int64)
    kind = np.empty(environments, np.uint8)
    acting = ending = 0
    for e in range(environments):
        if row_kind[e] & _LAST:
            kind[e] = _FIRST
            continue
        if not abs(reward[e]) <= max_reward:  # NaN fails every comparison.
            return acted[:0], done[:0], kind, e
        returns[e] += reward[e]
        lengths[e] += 1
        acted[acting] = e
        acting += 1
        kind[e] = _TERMINATED if terminated[e] else (_TRUNCATED if truncated[e] else _STEP)
        if kind[e] != _STEP:
            done[ending] = e
            ending += 1
    return acted[:acting], done[:ending], kind, -1
