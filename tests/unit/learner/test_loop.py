"""What the training loop tells of itself, whatever feeds it."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from common import run_directory
from common.config import Config
from common.metrics import Telemetry
from learner import loop
from learner.loop import LearnerOptions, Outcome, train
from learner.recorder import Sink
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


@pytest.fixture(autouse=True)
def _other_tests_free_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "keep_freed_memory", lambda: None)


def learn(run_dir: Path, waits_in_vain: list[int], *, resume: bool = False) -> Telemetry:
    """What a learner told of itself when it was stopped."""
    over = threading.Event()
    peers = Alone(SlowFeed(waits_in_vain, over))
    options = LearnerOptions(run_dir, resume=resume)
    outcome = train(options, CONFIG, peers.connect, over, lambda _: None)
    assert outcome == Outcome(False, "stopped")
    return peers.telemetry


def test_a_wait_for_a_batch_is_one_wait_however_often_the_loop_looks_around(tmp_path: Path) -> None:
    # Zero: it is there when it is asked for.
    values, histograms = learn(tmp_path, [2, 1, 0, 3, 0]).snapshot()
    *counts, total_s = histograms["learner_batch_wait_seconds"]
    assert values["learner_updates_total"] == sum(counts) == 5
    np.testing.assert_allclose(total_s, values["learner_waited_seconds_total"])


def test_sinks_hear_where_a_resumed_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def open_sinks(run_dir: Path, config: Config, env_steps: int) -> list[Sink]:
        opened.append(env_steps)
        return []

    monkeypatch.setattr(loop, "open_sinks", open_sinks)
    first = learn(tmp_path, [0, 0]).snapshot()[0]["learner_env_steps_total"]
    assert first > 0
    learn(tmp_path, [0], resume=True)
    assert opened == [0, first]


def test_a_resumed_run_goes_on_counting_and_its_rates_are_of_the_new_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results: list[dict[str, Any]] = []

    def write_result(run_dir: Path, **facts: Any) -> None:
        results.append(facts)

    monkeypatch.setattr(loop, "write_result", write_result)
    learn(tmp_path, [0, 0])
    # It took three hours.
    (tmp_path / run_directory.METRICS_FILE).write_text('{"wall_s": 1e4}\n')
    learn(tmp_path, [0], resume=True)
    first, second = results
    assert second["wall_s"] > 1e4
    assert second["wall_s"] - second["part_s"] == pytest.approx(1e4)
    assert (first["part_updates"], second["part_updates"]) == (2, 1)
    assert second["state"].updates == 3
