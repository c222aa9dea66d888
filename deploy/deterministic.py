"""A run that is the same every time: same configuration, same machine, same weights, bit by bit.

For debugging: what went wrong once goes wrong again, at the same update, and a debugger can step
from the actor through the replay into the learner, for it is all one thread (`deploy/in_turn.py`).

On a GPU, cuBLAS must be told before it starts (CUBLAS_WORKSPACE_CONFIG); that is done here, unless
the user has set it.
"""

import contextlib
import functools
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from common.config import Config
from common.errors import ConfigError
from common.process import configure_logging
from deploy.in_turn import InTurn
from deploy.live_view import LiveView
from learner.loop import LearnerOptions, train

CUBLAS_WORKSPACE = ":4096:8"
"""Fixed buffers, with which cuBLAS adds up in the same order every time (NVIDIA's cuBLAS manual,
"Results Reproducibility")."""


def run_deterministic(
    config: Config,
    run_dir: Path,
    *,
    resume: bool,
    started_s: float,
    log_level: str,
    stop: threading.Event,
    view: LiveView,
) -> None:
    """As `deploy.in_process.run_in_process`. A run that is resumed goes on in the same way every
    time, too: with its own random numbers, as after every resume.
    """
    configure_logging(log_level, run_dir / "logs" / "launcher.log", view.say)
    # Sums over several threads depend on how many there are.
    config = config.model_copy(update={"learner_threads": 1})
    options = LearnerOptions(run_dir, resume=resume, started_s=started_s)
    connect = functools.partial(InTurn, run_dir, stop, view)
    with _repeatable_torch():
        # For environments that draw from generators that are nobody's own.
        random.seed(config.seed)
        np.random.seed(config.seed)  # noqa: NPY002
        train(options, config, connect, stop, lambda _: None)


def refuse_unrepeatable(config: Config) -> None:
    """Raises ConfigError for what runs beside the one thread."""
    if config.vectorization == "envpool":
        raise ConfigError(
            "--deterministic cannot repeat vectorization = envpool, whose threads return "
            "environments as they are ready: choose sync, async or vector_entry_point"
        )
    if config.replay_servers != 1:
        raise ConfigError(
            f"--deterministic has one table in place of replay_servers = {config.replay_servers}: "
            "choose 1"
        )
    if config.inference != "actor":
        raise ConfigError(
            f"--deterministic has no inference process beside it: choose inference = actor in "
            f"place of {config.inference}"
        )
    if config.video_period is not None:
        raise ConfigError(
            "--deterministic films nothing beside the run: choose video_period = none, and "
            "python -m deploy play afterwards"
        )


@contextlib.contextmanager
def _repeatable_torch() -> Iterator[None]:
    """PyTorch refuses operations that have no repeatable form, and says which; its settings are as
    before afterwards."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
