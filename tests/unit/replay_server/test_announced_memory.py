"""A replay takes the memory that is announced, and little more than its pictures."""

import gc
import re
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import psutil
import pytest

from common.block_columns import block_bytes
from common.blocks import BlockLayout
from common.config import Config
from common.errors import ZapexError
from common.manifest import Manifest
from common.spec import EnvSpec
from deploy import presets
from replay_server import placement
from replay_server.sampler import PrioritizedSampler, Sampler
from replay_server.server import build_table, replay_bytes
from replay_server.storage import Storage
from replay_server.sum_tree import SumTree
from tests.experience import insert, steps

GB = 1_000_000_000
Usage = namedtuple("Usage", "total used free")

PICTURES = EnvSpec((84, 84), "|u1", 6)


def atari(slots: int) -> Manifest:
    """Four pictures in a stack, three steps of reward, 64 transitions in a block."""
    config = Config(
        frame_stack=4, n_step=3, block_length=64, replay_capacity=64 * slots, batch_size=32
    )
    return Manifest("run", config, PICTURES)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_full_replay_takes_the_memory_that_was_announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """270 blocks of 70 pictures: 133 MB."""
    run, path = atari(270), None if where == "memory" else tmp_path / "replay"
    blocks = 30
    message = insert(steps(blocks, run.layout), layout=run.layout, spec=run.spec)
    warm_up = build_table(atari(30), None)
    warm_up.handle(b"actor", message, 0.0)
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    with caplog.at_level("INFO", "replay_server"):
        table = build_table(run, path)
    for slot in range(0, 270, blocks):
        table.storage.write(message)
        assert table.storage.number[slot + 1 : slot + blocks].all()
    grown = process.memory_info().rss - before

    nbytes = block_bytes(run.spec, run.layout, run.config.replay_slots)
    assert nbytes == table.storage.nbytes == len(table.storage.buffer)
    assert 1.0 < nbytes / (270 * 70 * 84 * 84) < 1.005
    assert grown == pytest.approx(nbytes, rel=0.05)
    (line,) = [
        line for line in caplog.messages if line.startswith("a replay of 17,280 transitions")
    ]
    announced = float(re.findall(r"takes ([0-9.]+) GB", line)[0])
    assert announced == pytest.approx(nbytes / 1e9, abs=0.0005)
    assert ("of memory" if path is None else f"at {path}") in line


@pytest.mark.parametrize("prioritized", [True, False], ids=["prioritized", "uniform"])
def test_what_draws_from_a_replay_is_announced_too(prioritized: bool) -> None:
    """Of four numbers, a transition takes 34 bytes, and 8 or 16 to be drawn."""
    config = Config(replay_capacity=1 << 16, prioritized=prioritized)
    run = Manifest("run", config, EnvSpec((4,), "<f4", 2))
    table = build_table(run, None)
    assert replay_bytes(run) == table.storage.nbytes + _nbytes(table.sampler)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_replay_that_fits_without_what_draws_from_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run, path = atari(270), None if where == "memory" else tmp_path / "replay"
    experience = block_bytes(run.spec, run.layout, run.config.replay_slots)
    needed = replay_bytes(run) - (0 if path is None else experience)
    monkeypatch.setattr(placement, "available_memory", lambda: needed - 1)
    with pytest.raises(ZapexError, match=r"no room for a replay of .* in memory"):
        build_table(run, path)
    assert path is None or not path.exists()
    monkeypatch.setattr(placement, "available_memory", lambda: needed)
    build_table(run, path)


@pytest.mark.usefixtures("nothing_taken")
@pytest.mark.parametrize("where", [None, "replay"])
def test_two_million_transitions_of_atari_are_announced_before_anything_is_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str | None,
) -> None:
    monkeypatch.setattr(placement, "available_memory", lambda: 12 * GB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 50, 0, 12 * GB))
    path = None if where is None else tmp_path / where
    run = Manifest("run", presets.load("pong+atari_paper"), PICTURES)
    with caplog.at_level("INFO", "replay_server"), pytest.raises(ZapexError, match="no room"):
        build_table(run, path)
    (line,) = caplog.messages
    announced = re.fullmatch(
        r"a replay of 2,000,000 transitions takes ([0-9.]+) GB (of memory|at .*) \(.* bytes each\)",
        line,
    )
    assert announced is not None
    assert (announced[2] == "of memory") == (path is None)
    # Blocks of 100 have rows for 106: a picture each, and a few bytes.
    assert 2e6 * 7056 * 1.06 < float(announced[1]) * 1e9 < 2e6 * 7056 * 1.07


def test_a_size_beyond_all_bounds_is_still_told_as_it_is() -> None:
    layout = BlockLayout(length=64, n_step=3, context=3)
    assert block_bytes(PICTURES, layout, 10**17) > 10**17 * 70 * 7056  # Far beyond 2⁶³.


@pytest.mark.parametrize("slots", [256, 257], ids=["a full tree", "a tree that is half empty"])
def test_a_transition_of_pictures_costs_little_more_than_one_picture(slots: int) -> None:
    """70 rows for 64 transitions are 1.094 pictures; all else together is 0.5 % of one."""
    layout = BlockLayout(length=64, n_step=3, context=3)
    storage = Storage(PICTURES, layout, slots)
    sampler = PrioritizedSampler(64 * slots, 0.6, 1e-6, np.random.default_rng(0))
    nbytes = storage.nbytes + _nbytes(sampler)
    per_transition = nbytes / (64 * slots)
    assert 70 / 64 * 7056 < per_transition < 1.10 * 7056


def _nbytes(sampler: Sampler) -> int:
    """Of all arrays in it."""
    values = list(vars(sampler).values())
    values += [own for tree in values if isinstance(tree, SumTree) for own in vars(tree).values()]
    arrays = [array for array in values if isinstance(array, np.ndarray) and array.base is None]
    assert arrays
    return sum(array.nbytes for array in arrays)
