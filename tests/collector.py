"""The slowest way to collect experience, and the way of actors and replay beside it.

Slowly: one environment at a time, whole episodes, Gymnasium's own wrapper for the stacks, every
transition by its definition. Actors, blocks and replay must come to the same.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv

from actor.blocks import Blocks
from actor.rollout import QFunction, Rollout
from common.config import Config
from common.environments import spec_of
from common.manifest import Manifest
from common.messages import Insert
from common.transitions import copy_frames, find_transitions
from learner.update import stacks
from replay_server.storage import Storage

Observation = npt.NDArray[Any]
_Env = gym.Env[Any, Any]


class Transition(NamedTuple):
    obs: Observation
    """What the network sees: an observation, or the stack of the newest ones."""
    action: int
    n_step_return: float
    discount: float
    next_obs: Observation
    priority: float


class EndsWithALife(gym.Wrapper[Any, Any, Any, Any]):
    """A lost life ends the episode, and a reset goes on from there unless the game is over.

    A game that is cut off in the step that costs a life is cut off: it is bootstrapped from.
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None or self._is_over():
            self._obs, info = self.env.reset(seed=seed, options=options)
            self._lives = info["lives"]
            self._over = False
        return self._obs, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._obs, reward, terminated, truncated, info = self.env.step(action)
        self._over = terminated or truncated
        lost = info["lives"] < self._lives
        self._lives = info["lives"]
        return self._obs, reward, terminated or (lost and not truncated), truncated, info

    def _is_over(self) -> bool:
        return getattr(self, "_over", True)


def stacked(env: _Env, config: Config) -> _Env:
    """A single environment as its learner is to see it."""
    if config.life_loss_ends_episode:
        env = EndsWithALife(env)
    if config.frame_stack == 1:
        return env
    return gym.wrappers.FrameStackObservation(env, config.frame_stack, padding_type="reset")


def collect(
    env: _Env, config: Config, q_function: QFunction, seed: int, count: int
) -> list[Transition]:
    """The first `count` transitions of an environment that `stacked` made, played greedily."""
    found: list[Transition] = []
    obs, _ = env.reset(seed=seed)
    while len(found) < count:
        observations, actions, rewards = [obs], [], []
        terminated = truncated = False
        while not (terminated or truncated):
            action = int(np.argmax(q_function(obs[None])[0]))
            obs, reward, terminated, truncated, _ = env.step(action)
            clip = config.reward_clip or np.inf
            observations.append(obs)
            actions.append(action)
            rewards.append(min(max(float(reward), -clip), clip))
        for t, action in enumerate(actions):
            m = min(config.n_step, len(actions) - t)
            g = sum(config.discount**k * rewards[t + k] for k in range(m))
            bootstraps = not (terminated and t + m == len(actions))
            discount = config.discount**m if bootstraps else 0.0
            q, next_q = q_function(np.stack([observations[t], observations[t + m]]))
            delta = g + discount * float(next_q.max()) - float(q[action])
            found.append(
                Transition(observations[t], action, g, discount, observations[t + m], abs(delta))
            )
        obs, _ = env.reset()
    env.close()
    return found[:count]


@dataclass
class Played:
    """What an actor made of a vector environment."""

    rollout: Rollout
    manifest: Manifest
    blocks: dict[int, list[Insert]]
    """By stream, in order."""

    def transitions(self, stream: int) -> list[Transition]:
        """What the learner would train on, in the order of the stream."""
        layout = self.manifest.layout
        storage = Storage(self.manifest.spec, layout, slots=len(self.blocks[stream]))
        found = []
        for insert in self.blocks[stream]:
            slot, starts = storage.write(insert)
            offsets = np.flatnonzero(starts[0])
            if not len(offsets):
                continue  # Nothing but last rows.
            items = slot * layout.length + offsets
            walk = find_transitions(storage, items, self.manifest.config.discount)
            obs, next_obs = stacks(
                torch.from_numpy(copy_frames(storage, walk.rows)),
                torch.from_numpy(walk.shift.astype(np.int64)),
                layout.frame_stack,
            )
            found += [
                Transition(
                    obs[i].numpy(),
                    int(walk.action[i]),
                    float(walk.n_step_return[i]),
                    float(walk.discount[i]),
                    next_obs[i].numpy(),
                    float(insert.priority[0][offset]),
                )
                for i, offset in enumerate(offsets)
            ]
        return found


def first_number(obs: Observation) -> int:
    """The stream that an observation tells in its first element."""
    return int(obs.reshape(-1)[0])


def play(
    vector: VectorEnv[Any, Any, Any],
    config: Config,
    q_function: QFunction,
    seed: int,
    calls: int,
    *,
    epsilon: float = 0.0,
    stream_of: Callable[[Observation], int] = first_number,
) -> Played:
    """`calls` steps of the vector environment, which is closed then."""
    try:
        manifest = Manifest("run", config, spec_of(vector))
        rollout = Rollout(vector, manifest, q_function, np.random.default_rng(0), seed)
        played = Played(rollout, manifest, defaultdict(list))
        for _ in range(calls):
            for blocks in rollout.step(np.full(vector.num_envs, epsilon)):
                for b in range(len(blocks.action)):
                    # Rows before the first that may start a transition may hold nothing yet.
                    stream = stream_of(blocks.obs[b, manifest.layout.context])
                    one = (getattr(blocks, name)[b : b + 1] for name in Blocks.__dataclass_fields__)
                    played.blocks[stream].append(Insert(0, len(played.blocks[stream]), 0, *one))
        return played
    finally:
        vector.close()


def assert_same(
    found: Sequence[Transition], expected: Sequence[Transition], tolerance: float = 0.0
) -> None:
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if all(map(np.array_equal, a, b)):
            continue  # Much faster than numpy's explanations.
        for name in Transition._fields:
            np.testing.assert_allclose(
                getattr(a, name),
                getattr(b, name),
                rtol=tolerance,
                atol=tolerance,
                err_msg=f"{name} of transition {i}",
            )


class Hashed:
    """Q-values that depend on every number of what is seen, and on its place; exact in float32
    however observations are batched, and so are their halves and quarters."""

    def __init__(self, num_actions: int) -> None:
        self._num_actions = num_actions
        self._factors: dict[int, npt.NDArray[np.int64]] = {}
        self.seen: list[Observation] = []
        """Copies of all that was asked, in order."""

    def __call__(self, obs: Observation) -> npt.NDArray[np.float32]:
        self.seen.append(obs.copy())
        flat = obs.reshape(len(obs), -1).astype(np.int64)
        size = flat.shape[1]
        if size not in self._factors:
            self._factors[size] = np.random.default_rng(size).integers(1 << 16, size=(size, 1))
        sums = flat @ self._factors[size]
        # Knuth's multiplicative hash, a different one for each action.
        hashed = (sums + np.arange(self._num_actions) * 977) * 2654435761 >> 12 & 1023
        return (hashed / 1024).astype(np.float32)
