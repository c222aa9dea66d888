"""Are the values that a stranger sent in their ranges? One pass over each array.

(The same in numpy takes two or three calls an array, which together cost as much as storing it.)
"""

import numba
import numpy as np
import numpy.typing as npt

from common.blocks import MAX_REWARD, RowKind
from common.errors import Reason

# numba's cache looks at this file alone: whoever changes MAX_REWARD must touch it.
_MAX_REWARD = np.float32(MAX_REWARD)
_FLAGS = int(RowKind.FIRST | RowKind.LAST)

FAULTS = (
    ("", Reason.REFUSED),
    ("action leaves 0 … {last_action}", Reason.RANGE),
    ("row_kind has unknown flags", Reason.RANGE),
    (f"reward is beyond ±{MAX_REWARD:g}", Reason.RANGE),
    ("reward is not finite", Reason.NON_FINITE),
    ("priority is negative", Reason.RANGE),
    ("priority is not finite", Reason.NON_FINITE),
)
"""What each value of `first_fault` means, and what it is counted as."""


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
        bad += not -_MAX_REWARD <= r <= _MAX_REWARD
    if bad:
        for r in reward.flat:
            if not -np.inf < r < np.inf:
                return 4
        return 3
    for p in priority.flat:
        bad += not 0.0 <= p < np.inf
    if not bad:
        return 0
    for p in priority.flat:
        if not -np.inf < p < np.inf:
            return 6
    return 5


@numba.njit(cache=True, nogil=True)
def are_priorities(priority: npt.NDArray[np.float32]) -> bool:
    """Whether all values of a vector are finite and not negative."""
    bad = 0
    for value in priority:
        bad += not 0.0 <= value < np.inf
    return bad == 0
