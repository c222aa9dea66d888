"""n-step returns within a block, for the actor's first priorities and the learner's batches.

For the row t of a stream, with m = min(n, distance to the episode's last row),

    G_t = Σ_{k=0}^{m−1} γ^k r_{t+k},    discount_t = γ^m · 1[row t+m did not terminate],

and the bootstrap observation is row t+m (Sutton & Barto 2018, eq. 7.1; Ape-X, Horgan et al. 2018,
section 3, with returns cut at the episode's end). Truncation keeps its discount.
"""

import numba
import numpy as np
import numpy.typing as npt

from common.blocks import RowKind

_TERMINATED = int(RowKind.TERMINATED)
_LAST = int(RowKind.LAST)


@numba.njit(cache=True, nogil=True, inline="always")
def n_step_target(
    reward: npt.NDArray[np.float32],
    row_kind: npt.NDArray[np.uint8],
    t: int,
    n_step: int,
    discount: float,
) -> tuple[float, float, int]:
    """(G_t, discount_t, t+m) of one row. `reward` and `row_kind` are one block's rows [R], and the
    rows t … t+n_step exist. Row t is not an episode's last row."""
    n_step_return = 0.0
    product = 1.0
    for k in range(n_step):
        if k > 0 and row_kind[t + k] & _LAST:
            bootstrap = t + k
            break
        n_step_return += product * reward[t + k]
        product *= discount
    else:
        bootstrap = t + n_step
    if row_kind[bootstrap] & _TERMINATED:
        product = 0.0
    return n_step_return, product, bootstrap


@numba.njit(cache=True, nogil=True)
def block_targets(
    reward: npt.NDArray[np.float32],
    row_kind: npt.NDArray[np.uint8],
    start: int,
    length: int,
    n_step: int,
    discount: float,
) -> tuple[
    npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.bool_]
]:
    """Targets of the rows start … start+length−1 of B blocks.

    Args:
        reward: [B, R]; row_kind: [B, R] `RowKind` flags.
        discount: γ per environment step.

    Returns:
        G [B, L], discount [B, L], bootstrap row [B, L], and whether the row starts a transition
        [B, L]; where it does not, the others are zero.
    """
    blocks = reward.shape[0]
    n_step_return = np.zeros((blocks, length), np.float32)
    discounts = np.zeros((blocks, length), np.float32)
    bootstrap = np.zeros((blocks, length), np.int32)
    starts = np.zeros((blocks, length), np.bool_)
    for b in range(blocks):
        for i in range(length):
            t = start + i
            if row_kind[b, t] & _LAST:
                continue
            starts[b, i] = True
            g, d, m = n_step_target(reward[b], row_kind[b], t, n_step, discount)
            n_step_return[b, i] = g
            discounts[b, i] = d
            bootstrap[b, i] = m
    return n_step_return, discounts, bootstrap, starts
