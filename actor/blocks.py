"""Cuts the streams of an actor's environments into blocks, with their first priorities.

Rows are put down in two halves: what is seen (observation, kind, Q-values) when it arrives, what is
done (action, reward) after the environment's step. A stream's block is complete as soon as its last
tail row is seen; the rows that the next block shares are carried over.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from common.blocks import BlockLayout, RowKind
from common.n_step import n_step_target
from common.spec import EnvSpec

_LAST = int(RowKind.LAST)

Int64Vector = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Blocks:
    """B complete blocks; arrays as in `common.messages.Insert`."""

    obs: npt.NDArray[Any]
    action: npt.NDArray[np.int32]
    reward: npt.NDArray[np.float32]
    row_kind: npt.NDArray[np.uint8]
    priority: npt.NDArray[np.float32]

    def parts(self, most: int) -> "list[Blocks]":
        """The same in parts of at most so many blocks."""
        if len(self.action) <= most:
            return [self]
        cuts = [slice(first, first + most) for first in range(0, len(self.action), most)]
        return [
            Blocks(
                self.obs[cut],
                self.action[cut],
                self.reward[cut],
                self.row_kind[cut],
                self.priority[cut],
            )
            for cut in cuts
        ]


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
        self._dtype = spec.dtype
        self._obs = np.zeros((*rows, *spec.obs_shape), spec.dtype)
        # Observations of all shapes and dtypes are put down as bytes, by one compiled function.
        self._obs_bytes = _as_bytes(self._obs, 2)
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
        complete = _see(
            streams,
            _as_bytes(np.ascontiguousarray(obs, self._dtype), 1),
            row_kind,
            q_values,
            self._next,
            self._obs_bytes,
            self._row_kind,
            self._q_values,
            self._action,
            self._reward,
        )
        return self._cut(streams[self._next[streams] == self._layout.rows]) if complete else None

    def act(
        self,
        streams: Int64Vector,
        action: Int64Vector,
        reward: npt.NDArray[np.float64],
    ) -> None:
        """What was done at the newest row of some streams [K], and the reward that followed."""
        _act(streams, action, reward, self._next, self._action, self._reward)

    def _cut(self, streams: Int64Vector) -> Blocks:
        # Indexing by an array copies: the blocks do not change when the streams go on.
        obs, action = self._obs[streams], self._action[streams]
        reward, row_kind = self._reward[streams], self._row_kind[streams]
        priority = initial_priority(
            self._q_values[streams], action, reward, row_kind, self._layout, self._discount
        )
        _carry_over(
            streams,
            self._layout.overlap,
            self._next,
            self._obs_bytes,
            self._row_kind,
            self._q_values,
            self._action,
            self._reward,
        )
        return Blocks(obs, action, reward, row_kind, priority)


def _as_bytes(array: npt.NDArray[Any], axes: int) -> npt.NDArray[np.uint8]:
    """A contiguous array with everything behind its first `axes` axes as bytes."""
    return array.reshape(*array.shape[:axes], -1).view(np.uint8)


@numba.njit(cache=True, nogil=True)
def _see(  # type: ignore[no-untyped-def]
    streams, obs, kind, q_values, next_row, obs_rows, kind_rows, q_rows, action_rows, reward_rows
):
    complete = 0
    for i in range(streams.size):
        stream = streams[i]
        at = next_row[stream]
        row, new = obs_rows[stream, at], obs[i]
        for j in range(new.size):  # Twenty times as fast as the assignment of a slice.
            row[j] = new[j]
        kind_rows[stream, at] = kind[i]
        q_rows[stream, at] = q_values[i]
        # The last row of an episode has neither, and no one may read what lay there before.
        action_rows[stream, at] = 0
        reward_rows[stream, at] = 0.0
        next_row[stream] = at + 1
        complete += at + 1 == kind_rows.shape[1]
    return complete


@numba.njit(cache=True, nogil=True)
def _carry_over(  # type: ignore[no-untyped-def]
    streams, overlap, next_row, obs_rows, kind_rows, q_rows, action_rows, reward_rows
):
    first = kind_rows.shape[1] - overlap
    for stream in streams:
        for at in range(overlap):
            obs_rows[stream, at] = obs_rows[stream, first + at]
            kind_rows[stream, at] = kind_rows[stream, first + at]
            q_rows[stream, at] = q_rows[stream, first + at]
            action_rows[stream, at] = action_rows[stream, first + at]
            reward_rows[stream, at] = reward_rows[stream, first + at]
        next_row[stream] = overlap


@numba.njit(cache=True, nogil=True)
def _act(streams, action, reward, next_row, action_rows, reward_rows):  # type: ignore[no-untyped-def]
    for i in range(streams.size):
        stream = streams[i]
        at = next_row[stream] - 1
        action_rows[stream, at] = action[i]
        reward_rows[stream, at] = reward[i]


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

    (COMPUTEPRIORITIES in algorithm 1 of Horgan et al. 2018, which leaves open how. The actor has no
    target network, so the double estimate is the maximum.) q_values [B, R, A], the others [B, R];
    returns [B, L], 0 for rows that start no transition.
    """
    return _initial_priority(  # type: ignore[no-any-return]
        q_values, action, reward, row_kind, layout.context, layout.length, layout.n_step, discount
    )


@numba.njit(cache=True, nogil=True)
def _initial_priority(  # type: ignore[no-untyped-def]
    q_values, action, reward, row_kind, context, length, n_step, discount
):
    blocks = len(reward)
    priority = np.zeros((blocks, length), np.float32)
    for b in range(blocks):
        for i in range(length):
            t = context + i
            if row_kind[b, t] & _LAST:
                continue
            n_step_return, product, m = n_step_target(reward[b], row_kind[b], t, n_step, discount)
            bootstrap = product * q_values[b, m].max()
            priority[b, i] = abs(n_step_return + bootstrap - q_values[b, t, action[b, t]])
    return priority
