"""Numbers that are not finite end a run, wherever they show first."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import NonFiniteLoss
from learner.divergence import check_result, check_weights
from tests.unit.learner.test_update import make_batch, make_learner

RUN = Path("run")


@pytest.mark.parametrize(
    ("loss", "priority"), [(np.nan, 1.0), (np.inf, 1.0), (0.5, np.nan), (0.5, np.inf)]
)
def test_a_loss_or_one_priority_that_is_not_finite_ends_it(loss: float, priority: float) -> None:
    batch = make_batch(0)
    check_result(0.5, np.ones(2, np.float32), 7, batch, RUN)
    with pytest.raises(NonFiniteLoss, match=r"at update 7: lower learning_rate .*--resume run"):
        check_result(loss, np.array([1.0, priority], np.float32), 7, batch, RUN)


def test_one_weight_that_is_not_finite_ends_it() -> None:
    network = make_learner().online
    check_weights(network, 7, RUN)
    with torch.no_grad():
        next(network.parameters())[0, 0] = torch.inf
    with pytest.raises(NonFiniteLoss, match=r"after update 7: lower learning_rate .*--resume run"):
        check_weights(network, 7, RUN)
