"""When a greedy score counts as reaching the target."""

import numpy as np
import numpy.typing as npt


def judge(
    returns: npt.NDArray[np.float32], target: float | None, confirm_episodes: int
) -> tuple[bool, bool]:
    """Whether an evaluation's mean reached the target, and whether it did so beyond doubt.

    Beyond doubt: on enough episodes, and by three standard errors of their mean, so that another
    hundred episodes would agree.
    """
    if target is None or len(returns) < confirm_episodes:
        return False, False
    doubt = 3.0 * float(returns.std()) / len(returns) ** 0.5 if confirm_episodes else 0.0
    mean = float(returns.mean())
    return mean >= target, mean - doubt >= target
