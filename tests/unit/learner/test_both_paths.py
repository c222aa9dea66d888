"""By wire or by shared memory: the same keys are the same batch, to the last bit."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import codec, part_threads
from common.compression import METHODS, CompressedArray
from common.manifest import Manifest
from common.messages import Batch, Drawn, Insert, Message, SampleRequest
from common.packing import compressed
from common.spec import EnvSpec
from learner.mapped_replay import MappedReplay
from replay_server.server import build_table
from replay_server.table import Table
from tests.experience import insert, row_kinds, steps
from tests.unit.learner.storages import SLOTS, blank, manifest, mapped

PIXELS = EnvSpec((84, 84), "|u1", 5)
BATCH = 224
"""So many that their frames are compressed in three parts, and gathered by two threads."""


def two_tables(
    directory: Path, run: Manifest, history: Sequence[Insert], method: str = "none"
) -> tuple[Table, Table, MappedReplay]:
    """Tables with one seed and one history, which draw the same keys; the second one's storage."""
    tables = [build_table(run, directory / name, method=method) for name in ("wire", "shared")]
    for message in history:
        for table in tables:
            table.handle(b"actor", message, 0.0)
    wire, shared = tables
    replay = mapped(directory / "shared", run)
    assert replay.instance == shared.storage.instance
    return wire, shared, replay


def answer(table: Table, request: SampleRequest) -> Message:
    """As it arrives."""
    ((_, message),) = table.handle(b"learner", request, 0.0)
    return codec.decode(codec.encode(message))


def assert_identical(
    run: Manifest, batch: Message, keys_only: Message, replay: MappedReplay
) -> None:
    """What both answers make of a learner's buffer."""
    assert isinstance(batch, Batch)
    assert isinstance(keys_only, Drawn)
    assert keys_only.instance == replay.instance
    for name in ("table_size", "inserted", "sampled"):
        assert getattr(keys_only, name) == getattr(batch, name)

    by_wire, by_memory = blank(run), blank(run)
    by_wire.fill(batch)
    by_wire.weigh(batch.probability, batch.table_size)
    read = replay.read(by_memory, keys_only)

    assert read is not None
    assert read.key.tolist() == batch.key.tolist()
    by_memory.weigh(read.probability, keys_only.table_size)
    assert read.mean_version == batch.mean_version
    assert read.overwritten == 0
    for name, view in by_wire.views.items():
        assert view.dtype == by_memory.views[name].dtype
        np.testing.assert_array_equal(by_memory.views[name], view, name)


@settings(max_examples=40)
@given(
    frame_stack=st.integers(1, 4),
    n_step=st.integers(1, 4),
    prioritized=st.booleans(),
    data=st.data(),
)
def test_both_paths_give_identical_batches_for_identical_keys(
    tmp_path_factory: pytest.TempPathFactory,
    frame_stack: int,
    n_step: int,
    prioritized: bool,
    data: st.DataObject,
) -> None:
    run = manifest(frame_stack=frame_stack, n_step=n_step, prioritized=prioritized)
    history = data.draw(st.lists(row_kinds(run.layout, max_blocks=SLOTS), min_size=1, max_size=4))
    inserts = [
        insert(kinds, sequence=i, weights_version=i, layout=run.layout, spec=run.spec)
        for i, kinds in enumerate(history)
    ]
    wire, shared, replay = two_tables(tmp_path_factory.mktemp("replay"), run, inserts)
    if not wire.sampler.size:
        return
    for _ in range(3):
        batch = answer(wire, SampleRequest(1))
        assert_identical(run, batch, answer(shared, SampleRequest(1, keys_only=True)), replay)


@pytest.mark.parametrize("method", METHODS)
def test_so_they_do_where_frames_are_compressed_in_parts_and_gathered_by_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    # As on a machine with two cores.
    monkeypatch.setattr(part_threads.os, "sched_getaffinity", lambda _: {0, 1})
    changes = {"block_length": 16, "replay_capacity": 2 * BATCH, "batch_size": BATCH}
    run = manifest(**changes, frame_stack=4, n_step=3)
    run = replace(run, spec=PIXELS)
    message = insert(steps(20, run.layout), layout=run.layout, spec=PIXELS)
    # No two rows are alike, nor any pixel and its neighbours; half of a picture stays as it is.
    picture = np.arange(84 * 84, dtype=np.uint32).reshape(84, 84) % 241
    rows = np.arange(message.row_kind.size, dtype=np.uint32).reshape(*message.row_kind.shape, 1, 1)
    obs = ((picture * (1 + rows % 7) + rows) % 256).astype(np.uint8)
    obs[:, :, 42:] = picture[42:]
    message = replace(message, obs=compressed(obs, method))
    wire, shared, replay = two_tables(tmp_path, run, [message], method)
    for _ in range(3):
        batch = answer(wire, SampleRequest(1))
        assert isinstance(batch, Batch)
        assert isinstance(batch.frames, CompressedArray)
        assert len(batch.frames._parts()) == 3
        assert_identical(run, batch, answer(shared, SampleRequest(1, keys_only=True)), replay)
    assert {"compression_0", "gather_0"} <= {thread.name for thread in threading.enumerate()}
    wire.close()
    replay.close()
