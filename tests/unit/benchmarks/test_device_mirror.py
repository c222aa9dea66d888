"""The prototype of a mirror gives the batches that the host's memory gives, whatever is evicted."""

from pathlib import Path

import numpy as np
import pytest
import torch

from learner.mapped_replay import Read
from replay_server.storage import Storage
from tests.benchmarks import device_mirror
from tests.benchmarks.device_mirror import MirroredHostBatch, MirroredReplay, MirroredTransfer
from tests.unit.learner.storages import (
    LENGTH,
    SLOTS,
    SPEC,
    N,
    assert_holds,
    blank,
    drawn,
    manifest,
    mapped,
    write,
)

RUN = manifest()


class Mirrored:
    """A learner's side with a mirror, beside one without."""

    def __init__(self, path: Path, device: str) -> None:
        self.plain = mapped(path, RUN)
        columns = mapped(path, RUN)._columns
        self.host = MirroredHostBatch(RUN, torch.device(device))
        self.transfer = MirroredTransfer([self.host], torch.device(device), columns)
        self.replay = MirroredReplay(columns, RUN, self.transfer.mirror)

    def read(self, keys: list[int]) -> Read | None:
        return self.replay.read(self.host, drawn(keys))

    def frames(self) -> torch.Tensor:
        tensors, copied = self.transfer.start(0)
        if copied is not None:
            copied.synchronize()
        return tensors["frames"].cpu()


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(SPEC, RUN.layout, SLOTS, tmp_path / "replay")


def test_batches_are_those_of_the_hosts_memory_while_blocks_are_evicted(
    tmp_path: Path, storage: Storage, device: str
) -> None:
    mirrored, rng = Mirrored(tmp_path / "replay", device), np.random.default_rng(0)
    for sequence in range(4 * SLOTS):
        write(storage, RUN, sequence)
        newest = sequence + 1
        first = max(newest - SLOTS + 1, 1) * LENGTH
        keys = rng.integers(first, (newest + 1) * LENGTH, N).tolist()
        by_host = blank(RUN)
        expected, found = mirrored.plain.read(by_host, drawn(keys)), mirrored.read(keys)
        assert expected is not None
        assert found is not None
        assert found.key.tolist() == expected.key.tolist() == keys
        assert found.mean_version == expected.mean_version
        np.testing.assert_array_equal(mirrored.frames().numpy(), by_host.views["frames"])
        for name in ("shift", "action", "n_step_return", "discount"):
            np.testing.assert_array_equal(mirrored.host.views[name], by_host.views[name], name)


def test_what_is_overwritten_while_it_is_copied_is_replaced_by_others(
    tmp_path: Path, storage: Storage, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [write(storage, RUN, sequence) for sequence in range(3)]
    mirrored = Mirrored(tmp_path / "replay", device)
    fences: list[None] = []

    def overwrite() -> None:
        fences.append(None)
        if len(fences) == 2:  # Block 1 has been copied and is not on the device yet.
            sent.append(write(storage, RUN, 3))

    monkeypatch.setattr(device_mirror, "memory_fence", overwrite)
    read = mirrored.read([4, 5, 6, 7, 8, 9, 10, 11])

    assert read is not None
    assert read.overwritten == 4
    assert set(read.key.tolist()) == {8, 9, 10, 11}
    host = blank(RUN)
    host.views["frames"][:] = mirrored.frames().numpy()
    for name in ("shift", "action", "n_step_return", "discount"):
        host.views[name][:] = mirrored.host.views[name]
    assert_holds(host, read.key.tolist(), RUN, sent)


def test_keys_of_no_block_find_nothing(tmp_path: Path, storage: Storage, device: str) -> None:
    mirrored = Mirrored(tmp_path / "replay", device)
    write(storage, RUN, 0)
    assert mirrored.read([-5, 0, 1, 3, 8, 9, 1 << 40, 99]) is None
