"""Greedy episodes: the only scores zapex quotes."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from actor.acting_policy import Interrupted
from actor.frame_stack import FrameStack
from actor.rollout import FINITE_REWARD, QFunction
from common.config import Config
from common.environments import action_offset, autoreset_mode, make_vector, spec_of
from common.errors import EnvironmentFault
from common.spec import EnvSpec
from common.watched_vector import watched

MAX_ENVS = 128
LONG_EPISODE_STEPS = 200_000
"""Who plays this long may never end; an Atari game is cut off after 27,000 at most."""

log = logging.getLogger(__name__)

Episodes = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]
"""Returns and lengths, [episodes] each."""


class GreedyEvaluation:
    """Plays whole episodes with ε = 0 and returns their raw returns.

    Each of the E environments plays a fixed share of the episodes. Taking the first episodes that
    finish would favour short ones.

    Args:
        vector: plays them instead of one that is made for it, and is closed with this.

    Raises EnvironmentFault when the environment cannot be made, or has other observations or
    actions than the run.
    """

    def __init__(
        self,
        config: Config,
        spec: EnvSpec,
        episodes: int,
        vector: VectorEnv[Any, Any, Any] | None = None,
    ) -> None:
        # An environment in a process of its own is too dear to have one for each episode.
        most = config.envs_per_actor if config.vectorization == "async" else MAX_ENVS
        if vector is None:
            vector = make_vector(config, min(episodes, most))
            here = spec_of(vector)
            # Another dtype may do: whether it holds the same numbers, each observation shows.
            if (here.obs_shape, here.num_actions) != (spec.obs_shape, spec.num_actions):
                vector.close()
                raise EnvironmentFault(
                    f"{config.env} has observations of shape {here.obs_shape} and "
                    f"{here.num_actions} actions here, {spec.obs_shape} and {spec.num_actions} in "
                    "the run: give it the run's env_kwargs and version"
                )
        self._vector, num_envs = watched(vector, config.env), vector.num_envs
        self._env, self._spec = config.env, spec
        self._warned = False
        self._same_step = autoreset_mode(self._vector) is AutoresetMode.SAME_STEP
        self._offset = action_offset(self._vector)
        self._stack = FrameStack(num_envs, spec, config.frame_stack)
        self._share = np.full(num_envs, episodes // num_envs)
        self._share[: episodes % num_envs] += 1

    def run(
        self, q_function: QFunction, seed: int | None, goes_on: Callable[[], bool] = lambda: True
    ) -> Episodes:
        """Returns and lengths of the episodes.

        Args:
            seed: of the environments; None: they go on with the random numbers they have.

        Raises:
            Interrupted: `goes_on`, asked at every step, said no.
            EnvironmentFault: the environment raised, or returned what it must not.
        """
        left = self._share.copy()
        running_return = np.zeros(len(left))
        running_length = np.zeros(len(left), np.int64)
        resetting = np.zeros(len(left), np.bool_)
        returns: list[float] = []
        lengths: list[int] = []
        obs, _ = self._vector.reset(seed=seed)
        obs = self._vector.checked(obs, self._spec)
        first = np.ones(len(left), np.bool_)
        while left.any():
            if not goes_on():
                raise Interrupted
            # Whoever has played its share is stepped along, by any action.
            playing = left > 0
            stacks = self._stack.push(obs, first)
            if not playing.all():
                stacks = stacks[playing]
            action = np.zeros(len(left), np.int64)
            action[playing] = q_function(stacks).argmax(axis=1)
            obs, reward, terminated, truncated, _ = self._vector.step(action + self._offset)
            obs = self._vector.checked(obs, self._spec)
            counts = playing & ~resetting
            impossible = counts & ~(np.abs(reward) <= FINITE_REWARD)  # NaN fails every comparison.
            if impossible.any():
                bad = int(impossible.argmax())
                raise self._vector.fault(
                    bad, f"returned a reward that is not finite: {reward[bad]}"
                )
            running_return[counts] += reward[counts]
            running_length[counts] += 1
            self._say_if_long(running_length)
            ended = terminated | truncated
            done = counts & ended
            returns += running_return[done].tolist()
            lengths += running_length[done].tolist()
            running_return[done] = 0.0
            running_length[done] = 0
            left[done] -= 1
            first = ended if self._same_step else resetting
            resetting = ended & (not self._same_step)
        return np.array(returns, np.float32), np.array(lengths, np.int32)

    def _say_if_long(self, running_length: npt.NDArray[np.int64]) -> None:
        if not self._warned and running_length.max() >= LONG_EPISODE_STEPS:
            self._warned = True
            log.warning(
                "a greedy episode of %s has lasted %d steps, and there is no score before it ends: "
                "if it may go on for ever, set max_episode_steps in env_kwargs",
                self._env, LONG_EPISODE_STEPS,
            )  # fmt: skip

    def close(self) -> None:
        self._vector.close()


class Scoring:
    """Scores of versions, one after the other.

    A mean that reaches the target is the best of several tries, so it is not believed: the same
    weights must reach the target again on fresh episodes, and that second mean is the score.

    Args:
        incarnation: epoch and incarnation of the process, so that a later one plays other episodes.
        goes_on: asked at every step; false interrupts.
    """

    def __init__(
        self,
        config: Config,
        spec: EnvSpec,
        incarnation: tuple[int, int],
        goes_on: Callable[[], bool],
    ) -> None:
        self._config, self._spec, self._goes_on = config, spec, goes_on
        self._seeds = np.random.SeedSequence([config.seed, 2, *incarnation])
        self._evaluations: dict[int, GreedyEvaluation] = {}

    def score(self, q_function: QFunction) -> Episodes:
        """Returns and lengths of the episodes that count. Raises as `GreedyEvaluation.run`."""
        config = self._config
        returns, lengths = self._play(config.eval_episodes, q_function)
        target = config.target_return
        if config.confirm_episodes and target is not None and returns.mean() >= target:
            return self._play(config.confirm_episodes, q_function)
        return returns, lengths

    def close(self) -> None:
        for evaluation in self._evaluations.values():
            evaluation.close()

    def _play(self, episodes: int, q_function: QFunction) -> Episodes:
        # Seeded once: ale-py's environments load their game again with every seed.
        seed = None
        if episodes not in self._evaluations:
            self._evaluations[episodes] = GreedyEvaluation(self._config, self._spec, episodes)
            seed = int(self._seeds.spawn(1)[0].generate_state(1)[0] >> 1)
        return self._evaluations[episodes].run(q_function, seed, self._goes_on)
