"""Training that has left the finite numbers ends the run, with what to do about it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from common.errors import NonFiniteLoss
from learner.update import TrainBatch, batch_statistics

_ADVICE = "lower learning_rate or max_grad_norm, or clip rewards"


def check_result(
    loss: float, priority: npt.NDArray[np.float32], update: int, batch: TrainBatch, run_dir: Path
) -> None:
    """Of an update: its loss, and |δ| [N].

    Raises NonFiniteLoss, with the statistics of its batch.
    """
    if not np.isfinite(loss) or not np.isfinite(priority).all():
        raise NonFiniteLoss(
            f"the loss became {loss} at update {update}: {_ADVICE}. The batch: "
            f"{batch_statistics(batch)}. {_way_back(run_dir)}"
        )


def check_weights(network: nn.Module, updates: int, run_dir: Path) -> None:
    """Raises NonFiniteLoss: a finite loss can have gradients that are not."""
    if not all(bool(p.isfinite().all()) for p in network.parameters()):
        raise NonFiniteLoss(
            f"the weights are not finite after update {updates}: {_ADVICE}. {_way_back(run_dir)}"
        )


def _way_back(run_dir: Path) -> str:
    return f"Resume from the last checkpoint with --resume {run_dir}"
