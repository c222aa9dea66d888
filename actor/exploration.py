"""ε-greedy exploration, fixed per environment."""

import numba
import numpy as np
import numpy.typing as npt


def epsilon_ladder(
    first: int, count: int, ladder_size: int, base: float, alpha: float
) -> npt.NDArray[np.float64]:
    """ε of the environments first … first+count−1 out of M = `ladder_size`:

        ε_i = base^(1 + alpha · i / (M − 1))        (Horgan et al. 2018, section 4.1)

    A single environment (M = 1) explores at ε = base. Environments beyond the ladder stand on its
    last rung.
    """
    i = np.minimum(np.arange(first, first + count), max(ladder_size - 1, 0))
    return base ** (1.0 + alpha * i / max(ladder_size - 1, 1))


def epsilon_greedy(
    q_values: npt.NDArray[np.float32],
    epsilon: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """An action for each environment: argmax of q_values [E, A], or uniform with probability
    epsilon [E]."""
    return _epsilon_greedy(q_values, epsilon, rng.random((2, len(epsilon))))  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True)
def _epsilon_greedy(q_values, epsilon, uniform):  # type: ignore[no-untyped-def]
    environments, actions = q_values.shape
    chosen = np.empty(environments, np.int64)
    for e in range(environments):
        if uniform[0, e] < epsilon[e]:
            chosen[e] = int(uniform[1, e] * actions)
        else:
            chosen[e] = q_values[e].argmax()
    return chosen
