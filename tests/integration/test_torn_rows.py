"""A learner reads at full speed what a replay server overwrites at full speed: no row that is
accepted is torn.

Everything that a block holds tells its number, so that a transition which mixes two blocks shows.
"""

import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from common import part_threads
from common.block_columns import BlockColumns
from common.blocks import BlockLayout, RowKind
from common.config import Config
from common.manifest import Manifest
from common.messages import Drawn, Insert, Serving
from common.process import machine_id
from common.spec import EnvSpec
from learner.host_batch import HostBatch
from learner.mapped_replay import MappedReplay, map_storage
from replay_server.storage import Storage
from tests.integration.runs import until

LENGTH = 4
SPEC = EnvSpec((84, 84), "|u1", 5)
ENOUGH_BATCHES, ENOUGH_OVERWRITTEN = 100, 100
BY_ONE_THREAD, BY_TWO_THREADS = 32, 224
"""Transitions in a batch."""

Int64Vector = npt.NDArray[np.int64]


def manifest(batch_size: int) -> Manifest:
    """The replay holds as much as a batch: so little that a block lives for less than a batch is
    read."""
    config = Config(
        block_length=LENGTH,
        n_step=2,
        frame_stack=4,
        replay_capacity=batch_size,
        envs_per_actor=1,
        min_size_to_sample=1,
        batch_size=batch_size,
        discount=0.5,
        importance_sampling_exponent=1.0,
    )
    return Manifest("run", config, SPEC)


def blocks(layout: BlockLayout, first: int, count: int) -> Insert:
    """Blocks first … first+count−1. In every third the row of offset 3 ends the episode."""
    number = np.arange(first, first + count)[:, None]
    rows = np.ones((1, layout.rows), np.int64)
    row_kind = np.zeros((count, layout.rows), np.uint8)
    row_kind[:, layout.context + 3] = np.where(
        number[:, 0] % 3 == 0, RowKind.TERMINATED, RowKind.STEP
    )
    picture = (number % 251).astype(np.uint8)[..., None, None]
    return Insert(
        session=0,
        sequence=first,
        weights_version=first,
        obs=np.broadcast_to(picture, (count, layout.rows, *SPEC.obs_shape)),
        action=(number % 5 * rows).astype(np.int32),
        reward=(number % 97 * rows).astype(np.float32),
        row_kind=row_kind,
        priority=np.ones((count, LENGTH), np.float32),
    )


def storage_of(run: Manifest, path: Path) -> Storage:
    return Storage(run.spec, run.layout, run.config.replay_slots, path)


def write(run: Manifest, path: Path, goes_on: Callable[[], bool] = lambda: True) -> None:
    """Insert after insert of one to three blocks."""
    storage = storage_of(run, path)
    while goes_on():
        first = storage.next_number
        storage.write(blocks(run.layout, first, 1 + first % 3))


@contextlib.contextmanager
def writing_thread(run: Manifest, path: Path) -> Iterator[None]:
    stop = threading.Event()

    def goes_on() -> bool:
        # A moment's rest is enough for the reader to get its turn.
        return not stop.wait(1e-5)

    writer = threading.Thread(target=write, args=(run, path, goes_on))
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


@contextlib.contextmanager
def writing_process(run: Manifest, path: Path) -> Iterator[None]:
    """It is killed wherever it happens to be."""
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(run, path))
    writer.start()
    try:
        yield
    finally:
        writer.kill()
        writer.join()


def probability_of(key: Int64Vector) -> npt.NDArray[np.float32]:
    return (1.0 / (2.0 + key % 50)).astype(np.float32)


def draw(columns: BlockColumns, batch_size: int, rng: np.random.Generator) -> Drawn | None:
    """Keys of blocks that are there right now, the next ones to go among them."""
    number = columns.number[columns.number > 0]
    if len(number) < columns.slots // 2:
        return None
    key = rng.choice(number, batch_size) * LENGTH + rng.integers(3, size=batch_size)
    return Drawn(0, columns.slots * LENGTH, 0, 0, 1.0, 0, probability_of(key), key)


def assert_whole(host: HostBatch, key: Int64Vector) -> None:
    """Every transition is all of the block that its key names."""
    block, offset = np.divmod(key, LENGTH)
    views = host.views
    pictures = (block % 251).astype(np.uint8)[:, None]
    assert (views["frames"].reshape(len(key), -1) == pictures).all()
    assert (views["action"] == block % 5).all()
    ends = block % 3 == 0
    # G = r + r/2, but the last step of an episode has one reward.
    shorter = ends & (offset == 2)
    assert (views["n_step_return"] == block % 97 * np.where(shorter, 1.0, 1.5)).all()
    assert (views["discount"] == np.where(ends & (offset >= 1), 0.0, 0.25)).all()
    assert (views["shift"] == np.where(shorter, 1, 2)).all()


def mapped(run: Manifest, path: Path) -> MappedReplay | None:
    """The storage once its writer has made it."""
    if not path.exists():
        return None
    return map_storage(Serving(1, "", machine_id(), str(path)), run)


@pytest.mark.parametrize("batch_size", [BY_ONE_THREAD, BY_TWO_THREADS])
@pytest.mark.parametrize("writing", [writing_thread, writing_process])
def test_no_torn_row_is_ever_accepted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writing: Callable[[Manifest, Path], contextlib.AbstractContextManager[None]],
    batch_size: int,
) -> None:
    # As on a machine with two cores.
    monkeypatch.setattr(part_threads.os, "sched_getaffinity", lambda _: {0, 1})
    run, path = manifest(batch_size), tmp_path / "replay"
    rng = np.random.default_rng(0)
    host = HostBatch(run, torch.device("cpu"))
    accepted = overwritten = 0
    with writing(run, path):
        replay: Any = until(lambda: mapped(run, path), "the storage")
        while accepted < ENOUGH_BATCHES or overwritten < ENOUGH_OVERWRITTEN:
            drawn = draw(replay._columns, batch_size, rng)
            read = None if drawn is None else replay.read(host, drawn)
            if read is not None:
                assert_whole(host, read.key)
                np.testing.assert_array_equal(read.probability, probability_of(read.key))
                accepted += 1
                overwritten += read.overwritten
    gathering = any(thread.name.startswith("gather_") for thread in threading.enumerate())
    assert gathering == (batch_size == BY_TWO_THREADS)
    # What its writer left, and what the next one finds, is whole, too.
    for _ in range(2):
        drawn = draw(replay._columns, batch_size, rng)
        assert drawn is not None
        read = replay.read(host, drawn)
        assert (read.key.tolist(), read.overwritten) == (drawn.key.tolist(), 0)
        assert_whole(host, read.key)
        storage_of(run, path)
    replay.close()
