"""The learner's equations: tensors in, tensors out.

Names are indexed by time: s_tm1, a_tm1 is where a transition starts, s_t where it bootstraps.
N transitions, A actions.
"""

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional


def q_target(
    q_t_target: Tensor, q_t_selector: Tensor, n_step_return: Tensor, discount_t: Tensor
) -> Tensor:
    """y = G + discount_t · Q_target(s_t, argmax_a Q_selector(s_t, a))

    Double Q-learning (van Hasselt et al. 2016, eq. 4) with the online network as selector; plain
    Q-learning (Mnih et al. 2015) with the target network as selector too.

    q_t_target, q_t_selector [N, A]; n_step_return, discount_t [N] → [N].
    """
    if not q_t_target.shape == q_t_selector.shape == (len(n_step_return), q_t_target.shape[1]):
        raise ValueError("q_t_target and q_t_selector must both be [N, A]")
    best = q_t_selector.argmax(dim=1, keepdim=True)
    return n_step_return + discount_t * q_t_target.gather(1, best).squeeze(1)


def td_error(q_tm1: Tensor, a_tm1: Tensor, target: Tensor) -> Tensor:
    """δ = y − Q(s_tm1, a_tm1). q_tm1 [N, A], a_tm1 [N] int64, target [N] → [N]; gradients flow
    through q_tm1 alone."""
    return target.detach() - q_tm1.gather(1, a_tm1.unsqueeze(1)).squeeze(1)


def huber(delta: Tensor) -> Tensor:
    """½δ² where |δ| ≤ 1, |δ| − ½ beyond. [N] → [N]."""
    return functional.huber_loss(delta, torch.zeros_like(delta), reduction="none")


def squared(delta: Tensor) -> Tensor:
    """½δ². [N] → [N]."""
    return 0.5 * delta * delta


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """(1/N) Σ w_i · loss_i: the sum of Schaul et al. 2016, algorithm 1, line 13, as a mean."""
    return torch.mean(weight * losses)


def importance_weights(
    probability: npt.NDArray[np.float32],
    exponent: float,
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """w_i = (N · P(i))^−β / max_j (N · P(j))^−β, the maximum taken over the batch (Schaul et al.
    2016, section 3.4), which is (P(i) / min_j P(j))^−β: the size N of the table cancels.

    probability [N] → [N] in [0, 1], into `out` if given. Raises ValueError when one is not positive
    and finite.
    """
    weight = np.empty_like(probability) if out is None else out
    if not _importance_weights(probability, np.float32(-exponent), weight):
        raise ValueError("a probability is not positive and finite")
    return weight


@numba.njit(cache=True)
def _importance_weights(probability, exponent, weight):  # type: ignore[no-untyped-def]
    """Whether there are such weights."""
    least = np.float32(np.inf)
    for i in range(probability.shape[0]):
        if not 0.0 < probability[i] < np.inf:
            return False
        least = min(least, probability[i])
    for i in range(probability.shape[0]):
        weight[i] = (probability[i] / least) ** exponent
    return True
