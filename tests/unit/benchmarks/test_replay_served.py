"""What a replay server's figures stand beside is measured as the server and its learner work."""

import os
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from common.block_columns import BlockColumns
from learner import gatherer
from learner.gatherer import Gatherer
from tests.benchmarks import machine, replay_served
from tests.benchmarks.own_replay import manifest_of
from tests.benchmarks.peers import Peers
from tests.benchmarks.report import Figure
from tests.benchmarks.served import Rates


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads with which the machine was asked to gather; all rates are 10 a second."""
    threads: list[int] = []

    def gathered_bytes_per_s(count: int, window_s: float) -> float:
        threads.append(count)
        return 1e9

    monkeypatch.setattr(machine, "gathered_bytes_per_s", gathered_bytes_per_s)
    monkeypatch.setattr(replay_served, "measure_round", lambda *_: Rates(*[10.0] * 7))
    return threads


def figures_of(observations: replay_served.Observations) -> dict[str, Figure]:
    found = replay_served.figures(observations, "50", 1, 1.0, Peers(()))
    return {figure.name: figure for figure in found}


def threads_of_the_feed(monkeypatch: pytest.MonkeyPatch) -> int:
    """That copy a batch of frames out of the storage, a part each."""
    parts: list[Any] = []
    monkeypatch.setattr(gatherer, "copy_frames", lambda *_, out: parts.append(out))
    monkeypatch.setattr(gatherer, "stream_rows", lambda *arrays: parts.append(arrays))
    workload = replay_served.workload_of("frames", "50")
    layout = manifest_of(workload).layout
    rows = np.zeros((workload.batch_size, layout.frames_per_transition), np.int64)
    frames = np.empty((*rows.shape, *workload.obs_shape), workload.obs_dtype)
    feed = Gatherer(cast(BlockColumns, SimpleNamespace(obs_rows=frames[0])))
    feed.copy(rows, frames)
    feed.close()
    return len(parts)


@pytest.mark.parametrize(
    ("cores", "named"), [(1, "random gather, 1 thread"), (3, "random gather, 3 threads")]
)
def test_a_batch_from_shared_memory_stands_beside_a_gather_by_as_many_threads(
    asked: list[int], monkeypatch: pytest.MonkeyPatch, cores: int, named: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    found = figures_of("frames")["replay_served.frames.50.shared_memory.out_1_reader"]
    assert asked == [threads_of_the_feed(monkeypatch)] == [cores]
    assert found.limit_name == named
    # A transition has S + n = 7 frames of 84·84 bytes, a batch 512 of them.
    assert found.limit == pytest.approx(1e9 / (512 * 7 * 84 * 84))


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("observations", "named"),
    [("vectors", "bare ZeroMQ"), ("frames", "bare ZeroMQ, uncompressed")],
)
def test_a_limit_that_moves_more_bytes_than_compressed_frames_says_so(
    observations: replay_served.Observations, named: str
) -> None:
    found = figures_of(observations)
    names = {f.limit_name for name, f in found.items() if ".wire." in name}
    assert names == {named}
