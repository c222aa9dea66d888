"""Cuts the streams of an actor's environments into blocks, with their first priorities.

Rows are put down in two halves: what is seen (observation, kind, Q-values) when it arrives, what is
done (action, reward) after the environment's step. A stream's block is complete as soon as its last
tail row is seen; the rows that the next block shares are carried over.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.blocks import BlockLayout
from common.n_step import block_targets
from common.spec import EnvSpec

Int64Vector = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Blocks:
    """B complete blocks; arrays as in `common.messages.Insert`."""

    obs: npt.NDArray[Any]
    action: npt.NDArray[np.int32]
    reward: npt.NDArray[np.float32]
    row_kind: npt.NDArray[np.uint8]
    priority: npt.NDArray[np.float32]


class BlockBuilder:
    """Streams 0 … num_streams−1, each at its own row.

    Args:
        discount: γ per environment step.
    """

    def __init__(
        self, num_streams: int, spec: EnvSpec, layout: BlockLayout, discount: float
    ) -> None:
        rows = (num_streams, layout.rows)
        self._layout = layout
        self._discount = discount
        self._obs = np.zeros((*rows, *spec.obs_shape), spec.dtype)
        self._action = np.zeros(rows, np.int32)
        self._reward = np.zeros(rows, np.float32)
        self._row_kind = np.zeros(rows, np.uint8)
        self._q_values = np.zeros((*rows, spec.num_actions), np.float32)
        # The row each stream writes next. A stream begins behind its context, which it has not got
        # yet: zeros stand there, and the first row is an episode's first, where stacking stops.
        self._next = np.full(num_streams, layout.context)

    def see(
        self,
        streams: Int64Vector,
        obs: npt.NDArray[Any],
        row_kind: npt.NDArray[np.uint8],
        q_values: npt.NDArray[np.float32],
    ) -> Blocks | None:
        """The next row of some distinct streams [K]: obs [K, *obs_shape], kinds [K], Q-values
        [K, A]. Returns the blocks that are complete now, if any."""
        at = self._next[streams]
        self._obs[streams, at] = obs
        self._row_kind[streams, at] = row_kind
        self._q_values[streams, at] = q_values
        # The last row of an episode has neither, and no one may read what lay there before.
        self._action[streams, at] = 0
        self._reward[streams, at] = 0.0
        self._next[streams] = at + 1
        complete = streams[at + 1 == self._layout.rows]
        return self._cut(complete) if len(complete) else None

    def act(
        self,
        streams: Int64Vector,
        action: npt.NDArray[np.integer[Any]],
        reward: npt.NDArray[np.floating[Any]],
    ) -> None:
        """What was done at the newest row of some streams [K], and the reward that followed."""
        at = self._next[streams] - 1
        self._action[streams, at] = action
        self._reward[streams, at] = reward

    def _cut(self, streams: Int64Vector) -> Blocks:
        # Indexing by an array copies: the blocks do not change when the streams go on.
        obs, action = self._obs[streams], self._action[streams]
        reward, row_kind = self._reward[streams], self._row_kind[streams]
        priority = initial_priority(
            self._q_values[streams], action, reward, row_kind, self._layout, self._discount
        )
        overlap = self._layout.overlap
        for column in (self._obs, self._action, self._reward, self._row_kind, self._q_values):
            column[streams, :overlap] = column[streams, -overlap:]
        self._next[streams] = overlap
        return Blocks(obs, action, reward, row_kind, priority)


def initial_priority(
    q_values: npt.NDArray[np.float32],
    action: npt.NDArray[np.int32],
    reward: npt.NDArray[np.float32],
    row_kind: npt.NDArray[np.uint8],
    layout: BlockLayout,
    discount: float,
) -> npt.NDArray[np.float32]:
    """|δ| of each row that may start a transition, from the Q-values it was acted with:

        δ_t = G_t + discount_t · max_a Q(s_{t+m}, a) − Q(s_t, a_t)

    (Horgan et al. 2018, algorithm 1, line 9: the actor has no target network, so the double
    estimate is the maximum.) q_values [B, R, A], the others [B, R]; returns [B, L], 0 for rows that
    start no transition.
    """
    start, stop = layout.context, layout.context + layout.length
    n_step_return, discounts, bootstrap, starts = block_targets(
        reward, row_kind, start, layout.length, layout.n_step, discount
    )
    chosen = np.take_along_axis(q_values, action[..., None].astype(np.int64), axis=2)[..., 0]
    best = np.take_along_axis(q_values.max(axis=2), bootstrap.astype(np.int64), axis=1)
    priority = np.abs(n_step_return + discounts * best - chosen[:, start:stop])
    return np.where(starts, priority, np.float32(0.0)).astype(np.float32)
