"""Frames of a batch, packed by several threads, against the rows they are made of."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from common.block_columns import BlockColumns, block_bytes
from common.blocks import BlockLayout
from common.compression import METHODS, CompressedArray, unpacked
from common.spec import EnvSpec
from replay_server import frame_packer
from replay_server.frame_packer import FramePacker

SPEC = EnvSpec((84, 84), "|u1", 4)
LAYOUT = BlockLayout(length=8, n_step=1)
SLOTS = 4


def columns(noise: bool = False) -> BlockColumns:
    nbytes = block_bytes(SPEC, LAYOUT, SLOTS)
    found = BlockColumns(SPEC, LAYOUT, SLOTS, bytearray(nbytes))
    rng = np.random.default_rng(0)
    if noise:
        found.obs[:] = rng.integers(0, 256, found.obs.shape)
    else:
        # A background, and what moves before it.
        found.obs[:] = rng.integers(0, 256, (84, 1))
        found.obs[:, :, 30:36] = rng.integers(0, 256, (*found.obs.shape[:2], 6, 1))
    return found


@pytest.fixture(params=[1, 2, 4])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def rows() -> Any:
    return np.random.default_rng(1).permutation(SLOTS * LAYOUT.rows).reshape(12, 3)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_packer, "PART_BYTES", 50_000)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("method", METHODS)
def test_the_frames_are_those_of_the_rows(method: str, threads: int, rows: Any) -> None:
    stored = columns()
    packer = FramePacker(stored, method, threads)

    for _ in range(3):
        packed = packer.pack(rows)

        assert isinstance(packed, CompressedArray)
        assert packed.shape == (12, 3, 84, 84)
        assert packed.method == method
        assert packed.data[:4].view("<u4") == 6  # Parts of two transitions each.
        np.testing.assert_array_equal(unpacked(packed), stored.obs_rows[rows])
        rows = rows[::-1]
    packer.close()


@pytest.mark.parametrize(
    ("method", "noise"), [("none", False), *((method, True) for method in METHODS)]
)
def test_what_would_not_pay_is_sent_as_it_is(method: str, noise: bool, rows: Any) -> None:
    stored = columns(noise)
    packer = FramePacker(stored, method)

    packed = packer.pack(rows)

    assert isinstance(packed, np.ndarray)
    np.testing.assert_array_equal(packed, stored.obs_rows[rows])
    packer.close()
