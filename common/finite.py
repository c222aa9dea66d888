"""Is every number of an array finite?

One pass: for the few numbers of a step of a small environment, numpy's two calls cost ten times
as much.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt


def all_finite(values: npt.NDArray[np.floating[Any]]) -> bool:
    """Whether no element of a vector is NaN or infinite."""
    if values.dtype == np.float16:  # numba has none on CPUs.
        return bool(np.isfinite(values).all())
    finite: bool = _all_finite(values)
    return finite


@numba.njit(cache=True)
def _all_finite(values):  # type: ignore[no-untyped-def]
    bad = 0
    for value in values:
        bad += not -np.inf < value < np.inf
    return bad == 0
