"""What the training loop tells of its waiting, whatever feeds it."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from common.config import Config
from common.metrics import Telemetry
from learner import loop
from learner.loop import LearnerOptions, Outcome, train
from learner.update import TrainBatch
from tests.updates import make_batch

# With the threads that other tests of this process go on with.
CONFIG = Config(batch_size=4, learner_threads=torch.get_num_threads())


class SlowFeed:
    """Gives its batches after as many waits in vain, and then sets `over`."""

    overwritten = 0

    def __init__(self, waits_in_vain: list[int], over: threading.Event) -> None:
        self._left, self._over = list(waits_in_vain), over

    def next(self, timeout_s: float) -> TrainBatch | None:
        if self._left[0]:
            self._left[0] -= timeout_s > 0.0
            return None
        del self._left[0]
        return replace(make_batch(CONFIG, seed=0), inserted={0: 4})

    def done(self, batch: TrainBatch, priority: npt.NDArray[np.float32]) -> None:
        if not self._left:
            self._over.set()

    def close(self) -> None:
        pass


class Alone:
    """Peers of a learner that has a feed and nobody else; made by `connect`."""

    endpoint, evaluator = "inproc://nobody", None
    head_telemetry = Telemetry(dict)

    def __init__(self, feed: SlowFeed) -> None:
        self._feed = feed

    def connect(self, *_: Any, telemetry: Telemetry, **__: Any) -> "Alone":
        self.telemetry = telemetry
        return self

    def open_feed(self, *_: Any) -> SlowFeed:
        return self._feed

    def take_evaluations(self) -> list[Any]:
        return []

    def publish(self, *_: Any) -> None:
        pass

    keep_up = stop_members = close = publish


def test_a_wait_for_a_batch_is_one_wait_however_often_the_loop_looks_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "keep_freed_memory", lambda: None)  # As above.
    over = threading.Event()
    # Zero: it is there when it is asked for.
    peers = Alone(SlowFeed([2, 1, 0, 3, 0], over))
    options = LearnerOptions(tmp_path)
    outcome = train(options, CONFIG, peers.connect, over, lambda _: None)
    assert outcome == Outcome(False, "stopped")

    values, histograms = peers.telemetry.snapshot()
    *counts, total_s = histograms["learner_batch_wait_seconds"]
    assert values["learner_updates_total"] == sum(counts) == 5
    np.testing.assert_allclose(total_s, values["learner_waited_seconds_total"])
