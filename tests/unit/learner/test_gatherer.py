"""Frames come out the same, however many threads gather them."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.spec import EnvSpec
from learner import gatherer
from learner.gatherer import Gatherer
from learner.streamed_copy import stream_rows
from replay_server.storage import Storage
from tests.unit.learner.storages import SLOTS, SPEC, manifest, write

RUN = manifest()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(SPEC, RUN.layout, SLOTS, tmp_path / "replay")
    for sequence in range(SLOTS):
        write(storage, RUN, sequence)
    return storage


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Of the threads that copy."""
    seen: set[str] = set()
    copy_frames = gatherer.copy_frames

    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.add(threading.current_thread().name.rpartition("_")[0] or "caller")
        return copy_frames(*args, **kwargs)

    monkeypatch.setattr(gatherer, "copy_frames", noted)
    return seen


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 5, 16, 17])
def test_rows_come_in_their_order(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, threads: int, n: int
) -> None:
    monkeypatch.setattr(gatherer, "PART_BYTES", 1)
    rows = np.random.default_rng(n).integers(0, len(storage.obs_rows), (n, 5))
    out = np.zeros((n, 5, *SPEC.obs_shape), np.uint8)
    many = Gatherer(storage, threads)
    for _ in range(3):
        out.fill(0)
        many.copy(rows, out)
        np.testing.assert_array_equal(out, storage.obs_rows[rows])
    many.close()
    many.copy(rows, out)  # The threads are made anew.
    many.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("gather")]


def test_only_what_is_worth_it_is_shared_among_threads(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, names: set[str]
) -> None:
    rows = np.zeros((4, 5), np.int64)
    out = np.zeros((4, 5, *SPEC.obs_shape), np.uint8)
    few = Gatherer(storage, 2)
    few.copy(rows, out)
    assert names == {"caller"}
    monkeypatch.setattr(gatherer, "PART_BYTES", out.nbytes // 2)
    few.copy(rows, out)
    assert names == {"caller", "gather"}
    few.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_large_batches_go_past_the_caches(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    spec = EnvSpec((8, 8), "|u1", 5)
    storage = Storage(spec, RUN.layout, SLOTS)
    storage.obs_rows[:] = np.arange(storage.obs_rows.size).reshape(storage.obs_rows.shape) % 251
    rows = np.random.default_rng(0).integers(0, len(storage.obs_rows), (4, 5))
    out = torch.zeros((4, 5, 8, 8), dtype=torch.uint8).numpy()
    streamed: list[int] = []

    def noted(source: Any, rows: Any, out: Any) -> None:
        streamed.append(len(rows))
        stream_rows(source, rows, out)

    monkeypatch.setattr(gatherer, "stream_rows", noted)
    many = Gatherer(storage, threads)
    many.copy(rows, out)
    assert streamed == []
    np.testing.assert_array_equal(out, storage.obs_rows[rows])
    out.fill(0)
    monkeypatch.setattr(gatherer, "PART_BYTES", out.nbytes // 2)
    many.copy(rows, out)
    assert sum(streamed) == rows.size
    assert len(streamed) == threads
    np.testing.assert_array_equal(out, storage.obs_rows[rows])
    many.close()


def test_what_a_thread_raises_comes_out(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gatherer, "PART_BYTES", 1)
    wrong = np.zeros((4, 5, 1), np.uint8)
    both = Gatherer(storage, 2)
    with pytest.raises(ValueError, match=r"ndarray\.take"):
        both.copy(np.zeros((4, 5), np.int64), wrong)
    both.close()
