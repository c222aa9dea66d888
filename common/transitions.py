"""n-step transitions out of stored blocks: which rows they are made of, and their returns.

A transition from row t that bootstraps from row m = t + d needs two stacks of S = frame_stack rows
(S = 1: single rows), the one that ends at t and the one that ends at m. They overlap, so a
transition is handed on as U = S + min(n, S) rows, each once:

    frames   t−S+1 … t │ t+1 …  m          obs = frames[: S], next_obs = frames[shift : shift+S]

with shift = min(d, S). A stack does not reach back beyond its episode's first row, which is
repeated instead (as Gymnasium's FrameStackObservation pads with the reset observation).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from common.block_columns import BlockColumns
from common.blocks import RowKind
from common.n_step import n_step_target

_FIRST = int(RowKind.FIRST)
_DTYPES = {
    "shift": np.uint8,
    "action": np.int32,
    "n_step_return": np.float32,
    "discount": np.float32,
}
"""On the wire."""

Int64Vector = npt.NDArray[np.int64]
Float32Vector = npt.NDArray[np.float32]


class Transitions(NamedTuple):
    """N transitions; all but `rows` and `mean_version` as in `common.messages.Batch`, where nothing
    else was asked for."""

    rows: npt.NDArray[np.int64]
    """[N, U], where the frames lie among `BlockColumns.obs_rows`."""
    shift: npt.NDArray[Any]
    action: npt.NDArray[Any]
    n_step_return: Float32Vector
    discount: Float32Vector
    key: Int64Vector
    mean_version: float


def find_transitions(
    columns: BlockColumns,
    items: Int64Vector,
    discount: float,
    out: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Transitions:
    """The transitions of N items (slot × L + row − C), each of which must be one that starts one.

    Args:
        discount: γ per environment step.
        out: where shift, action, n_step_return and discount go, [N] each, under these names and of
            any dtype that holds them; otherwise they are made.
    """
    n, layout = len(items), columns.layout
    out = out or {name: np.empty(n, dtype) for name, dtype in _DTYPES.items()}
    rows, key = np.empty((n, layout.frames_per_transition), np.int64), np.empty(n, np.int64)
    shift, action, n_step_return, discounts = (out[name] for name in _DTYPES)
    mean_version = _find(
        items,
        layout.length,
        layout.context,
        layout.n_step,
        discount,
        columns.number,
        columns.version,
        columns.action,
        columns.reward,
        columns.row_kind,
        rows,
        shift,
        action,
        n_step_return,
        discounts,
        key,
    )
    return Transitions(rows, shift, action, n_step_return, discounts, key, mean_version)


def copy_frames(
    columns: BlockColumns, rows: npt.NDArray[np.int64], out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """The observations of rows [N, U] → [N, U, *obs_shape], into `out` if given.

    Other threads may run meanwhile.
    """
    # Any other mode copies twice when there is an `out`; the rows are ours, and in range.
    return columns.obs_rows.take(rows, axis=0, out=out, mode="clip")


@numba.njit(cache=True)
def _find(  # type: ignore[no-untyped-def]
    items,
    length,
    context,
    n_step,
    gamma,
    number,
    version,
    action,
    reward,
    row_kind,
    rows,
    shift,
    actions,
    n_step_return,
    discounts,
    key,
):
    n, frames = rows.shape
    block_rows = reward.shape[1]
    stack = context + 1
    versions = 0.0
    # The rows are all over the memory. This loop has no branch that waits for them, so that many
    # are fetched at once, and the next one finds them in the cache: two thirds of the time.
    # Where each of them is, the next one finds in `rows` and `key`: divisions are slow.
    for i in range(n):
        slot = items[i] // length
        t = context + items[i] - slot * length
        shift[i] = row_kind[slot, t] | row_kind[slot, t + n_step]
        rows[i, 0], key[i] = slot, t
    for i in range(n):
        slot, t = rows[i, 0], key[i]
        g, d, m = n_step_target(reward[slot], row_kind[slot], t, n_step, gamma)
        actions[i] = action[slot, t]
        n_step_return[i] = g
        discounts[i] = d
        key[i] = number[slot] * length + t - context
        versions += version[slot]

        first = t
        while first > t - context and row_kind[slot, first] & _FIRST == 0:
            first -= 1
        base = slot * block_rows
        for j in range(stack):
            rows[i, j] = base + max(first, t - context + j)
        # An episode that ends early leaves places that no stack reads: its last row fills them.
        after = t + 1 if m - t < stack else m - context
        for j in range(stack, frames):
            rows[i, j] = base + min(after + j - stack, m)
        shift[i] = min(m - t, stack)
    return versions / n
