"""Reading a replay server's storage: never a torn row, nor one that nobody was given."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import learner.gatherer
from common.errors import MalformedMessage
from common.messages import Drawn
from replay_server.storage import Storage
from tests.experience import TERMINATED, row_kinds, steps, transitions
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


def test_the_storage_cannot_be_written_through_the_learners_mapping(tmp_path: Path) -> None:
    run = manifest()
    Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    columns = mapped(tmp_path / "replay", run)._columns
    for column in (columns.counters, columns.number, columns.obs, columns.reward, columns.priority):
        with pytest.raises(ValueError, match="read-only"):
            column.fill(0)


# --------------------------------------------------------------------------- overwritten meanwhile

BEFORE, WHILE = "before", "while"
TWO_BLOCKS = [4, 5, 6, 7, 8, 9, 10, 11]
"""All keys of blocks 1 and 2."""


@pytest.fixture
def tear(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Has something done once while a batch is gathered: after its frames are copied."""

    def at_next_gather(action: Callable[[], Any]) -> None:
        copy_frames = learner.gatherer.copy_frames

        def copy_and_tear(*args: Any, **kwargs: Any) -> Any:
            monkeypatch.setattr(learner.gatherer, "copy_frames", copy_frames)
            copied = copy_frames(*args, **kwargs)
            action()
            return copied

        monkeypatch.setattr(learner.gatherer, "copy_frames", copy_and_tear)

    return at_next_gather


@pytest.mark.parametrize("when", [BEFORE, WHILE])
def test_what_was_overwritten_is_replaced_by_others_of_the_batch(
    tmp_path: Path, tear: Callable[[Callable[[], Any]], None], when: str
) -> None:
    run = manifest()
    storage = Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    sent = [write(storage, run, sequence) for sequence in range(3)]
    replay, host = mapped(tmp_path / "replay", run), blank(run)
    # Block 4 takes the place of block 1: four of the eight keys.
    if when == BEFORE:
        write(storage, run, 3)
    else:
        tear(lambda: write(storage, run, 3))
    read = replay.read(host, drawn(TWO_BLOCKS, [1 / 32] * 4 + [1 / 64] * 4))

    assert read is not None
    assert read.overwritten == 4
    assert read.key[4:].tolist() == [8, 9, 10, 11]
    assert set(read.key[:4].tolist()) <= {8, 9, 10, 11}
    assert_holds(host, read.key.tolist(), run, sent)
    assert read.probability.tolist() == [1 / 64] * N


def test_a_stand_in_comes_with_its_own_probability(tmp_path: Path) -> None:
    run = manifest()
    storage = Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    for sequence in range(4):
        write(storage, run, sequence)
    probability_of = {8: 1 / 64, 9: 1 / 32, 10: 1 / 16, 11: 1 / 8}
    probability = [1.0] * 4 + list(probability_of.values())
    replay, host = mapped(tmp_path / "replay", run), blank(run)
    stand_ins = set()
    for _ in range(20):
        read = replay.read(host, drawn(TWO_BLOCKS, probability))
        assert read is not None
        assert read.probability.tolist() == [probability_of[key] for key in read.key.tolist()]
        stand_ins |= set(read.key[:4].tolist())
    assert stand_ins == {8, 9, 10, 11}  # Any of those that are left.


def test_the_same_seed_has_the_same_stand_ins(tmp_path: Path) -> None:
    run = manifest()
    storage = Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    for sequence in range(4):
        write(storage, run, sequence)
    chosen = []
    for seed in (1, 1, 2):
        replay = mapped(tmp_path / "replay", manifest(seed=seed))
        reads = [replay.read(blank(run), drawn(TWO_BLOCKS)) for _ in range(5)]
        chosen.append([read.key.tolist() for read in reads if read is not None])
    assert chosen[0] == chosen[1] != chosen[2]


def test_some_gone_before_and_some_while_they_are_read(
    tmp_path: Path, tear: Callable[[Callable[[], Any]], None]
) -> None:
    run = manifest()
    storage = Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    sent = [write(storage, run, sequence) for sequence in range(4)]  # Block 1 is gone.
    replay, host = mapped(tmp_path / "replay", run), blank(run)
    tear(lambda: write(storage, run, 4))  # Block 2 goes.
    keys = [4, 5, 6, 8, 9, 10, 12, 13]
    probability = [1.0] * 3 + [1 / 2] * 3 + [1 / 64, 1 / 32]

    read = replay.read(host, drawn(keys, probability))

    assert read is not None
    assert read.key[6:].tolist() == [12, 13]
    assert set(read.key.tolist()) == {12, 13}
    assert_holds(host, read.key.tolist(), run, sent)
    probability_of = {12: 1 / 64, 13: 1 / 32}
    assert read.probability.tolist() == [probability_of[key] for key in read.key.tolist()]
    # Three were gone; three more, and whatever had stood in from among these, went meanwhile.
    assert 6 <= read.overwritten <= 9


@pytest.mark.parametrize("when", [BEFORE, WHILE])
def test_when_all_are_overwritten_there_is_no_batch(
    tmp_path: Path, tear: Callable[[Callable[[], Any]], None], when: str
) -> None:
    run = manifest()
    storage = Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    sent = [write(storage, run, sequence) for sequence in range(3)]
    replay, host = mapped(tmp_path / "replay", run), blank(run)

    def overwrite() -> None:
        sent.extend(write(storage, run, sequence) for sequence in range(3, 5))

    if when == BEFORE:
        overwrite()
    else:
        tear(overwrite)
    assert replay.read(host, drawn(TWO_BLOCKS)) is None
    # The next one is good.
    keys = [12, 13, 14, 15, 16, 17, 18, 19]
    read = replay.read(host, drawn(keys))
    assert read is not None
    assert (read.key.tolist(), read.overwritten) == (keys, 0)
    assert_holds(host, keys, run, sent)


def test_a_block_that_a_dead_server_left_half_written_is_not_read(tmp_path: Path) -> None:
    run = manifest()
    storage = Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    sent = [write(storage, run, sequence) for sequence in range(3)]
    replay, host = mapped(tmp_path / "replay", run), blank(run)
    storage.number[1] = 0  # So far the server came with block 4.
    storage.obs[1] = 77

    read = replay.read(host, drawn(TWO_BLOCKS))

    assert read is not None
    assert set(read.key.tolist()) == {8, 9, 10, 11}
    assert_holds(host, read.key.tolist(), run, sent)


def test_a_server_that_starts_again_over_its_file_is_read_on(tmp_path: Path) -> None:
    run = manifest()
    storage = Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    sent = [write(storage, run, sequence) for sequence in range(2)]
    replay, host = mapped(tmp_path / "replay", run), blank(run)
    before = replay.instance
    assert before == storage.instance

    again = Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    sent += [write(again, run, sequence) for sequence in range(2, 4)]

    assert replay.instance == again.instance != before
    keys = [8, 9, 10, 11, 16, 17, 18, 19]
    read = replay.read(host, drawn(keys))
    assert read is not None
    assert (read.key.tolist(), read.overwritten) == (keys, 0)
    assert_holds(host, keys, run, sent)


def test_a_file_in_the_place_of_the_one_that_is_mapped_has_another_instance(
    tmp_path: Path,
) -> None:
    run = manifest()
    Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    replay = mapped(tmp_path / "replay", run)
    (tmp_path / "replay").unlink()
    assert Storage(SPEC, run.layout, SLOTS, tmp_path / "replay").instance != replay.instance


# --------------------------------------------------------------------------------- hostile messages


def changed(**changes: Any) -> Drawn:
    return replace(drawn(TWO_BLOCKS), **changes)


MALFORMED = {
    "too few keys": changed(key=np.arange(4, 4 + N - 1)),
    "too many keys": changed(key=np.arange(4, 4 + N + 1)),
    "no keys": changed(key=np.zeros(0, np.int64)),
    "too few probabilities": changed(probability=np.ones(N - 1, np.float32)),
    "too many probabilities": changed(probability=np.ones(N + 1, np.float32)),
    "no probabilities": changed(probability=np.zeros(0, np.float32)),
    "a probability of 0": changed(probability=np.array([1, 0] * 4, np.float32)),
    "a negative probability": changed(probability=np.array([1, -1] * 4, np.float32)),
    "a probability of NaN": changed(probability=np.array([1, np.nan] * 4, np.float32)),
    "an infinite probability": changed(probability=np.array([1, np.inf] * 4, np.float32)),
    "an empty table": changed(table_size=0),
    "less than an empty table": changed(table_size=-5),
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("overwritten", [0, 1])
def test_a_message_that_breaks_the_contract_is_refused(
    tmp_path: Path, message: Drawn, overwritten: int
) -> None:
    run = manifest()
    storage = Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    for sequence in range(SLOTS + overwritten):
        write(storage, run, sequence)
    replay = mapped(tmp_path / "replay", run)
    host = blank(run)

    def take() -> None:
        read = replay.read(host, message)
        assert read is not None
        host.weigh(read.probability, message.table_size)

    with pytest.raises(MalformedMessage):
        take()


ANY_KEY = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-3, 40),
    st.sampled_from([-(1 << 63), (1 << 63) - 1, 0, -1, LENGTH - 1]),
)


@settings(max_examples=200)
@given(keys=st.lists(ANY_KEY, min_size=N, max_size=N), data=st.data())
def test_keys_that_nobody_was_given_are_never_read(
    tmp_path_factory: pytest.TempPathFactory, keys: list[int], data: st.DataObject
) -> None:
    """Whatever the keys, what comes of it are whole transitions that are stored, or nothing."""
    run = manifest()
    path = tmp_path_factory.mktemp("replay") / "replay"
    storage = Storage(SPEC, run.layout, SLOTS, path)
    history = data.draw(st.lists(row_kinds(run.layout, max_blocks=1), max_size=5))
    sent = [write(storage, run, sequence, kinds) for sequence, kinds in enumerate(history)]
    stored = {
        (number + 1) * LENGTH + offset
        for number in range(max(0, len(sent) - SLOTS), len(sent))
        for _, offset in transitions(sent[number], run.layout)
    }
    host = blank(run)

    read = mapped(path, run).read(host, drawn(keys))

    assert (read is None) == (not stored & set(keys))
    if read is not None:
        assert read.overwritten == sum(key not in stored for key in keys)
        for asked, got in zip(keys, read.key.tolist(), strict=True):
            assert got == asked if asked in stored else got in stored & set(keys)
        assert_holds(host, read.key.tolist(), run, sent)


def test_a_key_of_a_row_that_ends_an_episode_names_nothing(tmp_path: Path) -> None:
    run = manifest()
    storage = Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    # Two rows of context; the third row that might start a transition ends the episode.
    kinds = [*steps(1, run.layout)[0]]
    kinds[2 + 2] = TERMINATED
    sent = [write(storage, run, 0, [kinds])]
    host = blank(run)
    read = mapped(tmp_path / "replay", run).read(host, drawn([4, 5, 6, 7, 6, 6, 5, 4]))
    assert read is not None
    assert read.overwritten == 3
    assert set(read.key.tolist()) == {4, 5, 7}
    assert_holds(host, read.key.tolist(), run, sent)


def test_keys_and_probabilities_from_odd_addresses_are_read_like_others(tmp_path: Path) -> None:
    run = manifest()
    storage = Storage(SPEC, run.layout, SLOTS, tmp_path / "replay")
    sent = [write(storage, run, sequence) for sequence in range(2)]

    def moved(array: npt.NDArray[Any]) -> Any:
        return np.frombuffer(memoryview(b"\0" + array.tobytes())[1:], array.dtype)

    good = drawn(TWO_BLOCKS)
    odd = replace(good, key=moved(good.key), probability=moved(good.probability))
    host = blank(run)
    read = mapped(tmp_path / "replay", run).read(host, odd)
    assert read is not None
    assert read.key.tolist() == TWO_BLOCKS
    assert_holds(host, TWO_BLOCKS, run, sent)
