"""Are the values that a stranger sent in their ranges? One pass over each array.

(The same in numpy takes two or three calls an array, which together cost as much as storing it.)
"""

import numba
import numpy as np
import numpy.typing as npt

from common.blocks import RowKind

_FLAGS = int(RowKind.FIRST | RowKind.LAST)

FAULTS = (
    "",
    "action leaves 0 … {last_action}",
    "row_kind has unknown flags",
    "reward is not finite",
    "priority is negative or not finite",
)
"""What each value of `first_fault` means."""


@numba.njit(cache=True, nogil=True)
def first_fault(
    action: npt.NDArray[np.int32],
    num_actions: int,
    row_kind: npt.NDArray[np.uint8],
    reward: npt.NDArray[np.float32],
    priority: npt.NDArray[np.float32],
) -> int:
    """The first column of an insert, each a matrix, that holds an impossible value; 0: none."""
    # Counting instead of stopping at the first: the loops have no branch.
    bad = 0
    for a in action.flat:
        bad += not 0 <= a < num_actions
    if bad:
        return 1
    for k in row_kind.flat:
        bad += int(k > _FLAGS)
    if bad:
        return 2
    for r in reward.flat:
        bad += not -np.inf < r < np.inf
    if bad:
        return 3
    for p in priority.flat:
        bad += not 0.0 <= p < np.inf
    return 4 if bad else 0


@numba.njit(cache=True, nogil=True)
def are_priorities(priority: npt.NDArray[np.float32]) -> bool:
    """Whether all values of a vector are finite and not negative."""
    bad = 0
    for value in priority:
        bad += not 0.0 <= value < np.inf
    return bad == 0
