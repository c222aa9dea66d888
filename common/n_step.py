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
