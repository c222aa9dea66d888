"""How a batch is divided among replay servers."""

import numpy as np
import numpy.typing as npt


def divide(
    rows: int, mass: npt.NDArray[np.float64], uniform: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Systematic sampling: so many of a batch's rows from each server that over many batches each
    has its share exactly, and in every batch less than one row more or less than that.

    One table of them all would draw transition i of server r with p_i / Σ_r M_r. A server draws its
    own with p_i / M_r, and rows go to it with the probability M_r / Σ_r M_r.

    Args:
        mass: M_r, Σ p^α of each server's transitions, [R]; their sum is positive.
        uniform: a random number in [0, 1).

    Returns:
        Rows of each server [R], which sum to `rows`, and its share M_r / Σ_r M_r [R].
    """
    share = mass / mass.sum()
    ends = np.cumsum(share) * rows
    # Rounding must not take a row from the last server, nor give one to a server without mass.
    ends[np.flatnonzero(mass)[-1] :] = rows
    before_end = np.minimum(np.floor(ends + uniform), rows).astype(np.int64)
    return np.diff(before_end, prepend=0), share
