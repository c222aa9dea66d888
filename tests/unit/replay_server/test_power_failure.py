"""The machine goes down: each sector of the storage file is as old as its last way to the disk.

A disk here is what the file was at its last flush and at every moment since; after the failure each
sector is as at one of those moments, whichever. The oracle is the list of what was written.
"""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.block_columns import HEADER_BYTES, NEXT_NUMBER
from common.blocks import BlockLayout
from common.errors import CheckpointError
from common.messages import Ack, Insert
from common.spec import EnvSpec
from replay_server import placement, storage
from replay_server.server import table_values
from replay_server.storage import Storage
from tests.experience import LAYOUT, Kinds, insert, row_kinds, steps
from tests.unit.replay_server.tables import ACTOR, draw, make_table

SECTOR = 512
SPEC = EnvSpec((40,), "<f4", 5)
"""A block of 7 rows lies in three sectors, and in parts of their neighbours' first and last."""
COLUMNS = ("obs", "action", "reward", "row_kind")


class Disk:
    """What a storage file was after each step of each write since it was last flushed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._moments = [path.read_bytes()]

    def note(self) -> None:
        self._moments.append(self._path.read_bytes())

    def flush(self) -> None:
        self._moments = [self._path.read_bytes()]

    def after_a_failure(self, path: Path, choose: random.Random) -> Path:
        """A file of sectors that reached the disk at different times."""
        recent = choose.random()  # From hardly any way to the disk to nearly all of it.
        with path.open("wb") as file:
            for begin in range(0, len(self._moments[0]), SECTOR):
                last = len(self._moments) - 1
                moment = last if choose.random() < recent else choose.randint(0, last)
                file.write(self._moments[moment][begin : begin + SECTOR])
        return path


def disk_of(written: Storage, patch: pytest.MonkeyPatch) -> Disk:
    """The disk of a storage; it is looked at after each step of a write."""
    assert written.path is not None
    disk = Disk(written.path)

    def noting(step: Any) -> Any:
        def noted(*arguments: Any) -> Any:
            done = step(*arguments)
            disk.note()
            return done

        return noted

    for name in ("_number_blocks", "_write_columns"):
        patch.setattr(storage, name, noting(getattr(storage, name)))
    return disk


@settings(max_examples=150)
@given(
    slots=st.integers(1, 6),
    inserts=st.lists(row_kinds(max_blocks=3), min_size=1, max_size=7),
    flushed=st.integers(0, 7),
    choose=st.randoms(use_true_random=False),
)
def test_no_torn_block_is_accepted_and_no_flushed_one_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    slots: int,
    inserts: list[Kinds],
    flushed: int,
    choose: random.Random,
) -> None:
    directory = tmp_path_factory.mktemp("power")
    written: dict[int, tuple[Insert, int]] = {}  # by number: the insert, and the place in it
    on_disk = 0  # Highest number that was flushed.
    with pytest.MonkeyPatch.context() as patch:
        before = Storage(SPEC, LAYOUT, slots, directory / "replay")
        disk = disk_of(before, patch)
        for sequence, kinds in enumerate(inserts):
            message = insert(kinds[:slots], session=7, sequence=sequence, spec=SPEC)
            for place in range(len(message.action)):
                written[len(written) + 1] = message, place
            before.write(message)
            if sequence + 1 == flushed:
                disk.flush()
                on_disk = len(written)

    after = Storage(SPEC, LAYOUT, slots, disk.after_a_failure(directory / "after", choose))

    there = after.number[after.number != 0].tolist()
    for number in there:
        assert_is(after, number, *written[number])
    # What was written since may have begun to take the place of the oldest of them.
    assert {n for n in range(1, on_disk + 1) if n > len(written) - slots} <= set(there)
    assert np.isfinite(after.priority).all()
    # No number is given twice, and writing goes on.
    number = after.next_number
    assert number > max([on_disk, *there])
    message = insert(steps(), session=8, spec=SPEC)
    after.write(message)
    assert_is(after, number, message, 0)


def assert_is(after: Storage, number: int, message: Insert, place: int) -> None:
    """The block of that number is the one that was written."""
    slot = number % after.slots
    assert after.number[slot] == number
    assert (after.session[slot], after.sequence[slot]) == (message.session, message.sequence)
    for column in COLUMNS:
        assert np.array_equal(getattr(after, column)[slot], getattr(message, column)[place]), column


def stored(path: Path, inserts: int = 3) -> Storage:
    """Blocks 1 … 2·inserts in eight slots, of which number n has the sequence (n − 1) // 2."""
    file = Storage(SPEC, LAYOUT, 8, path)
    for sequence in range(inserts):
        file.write(insert(steps(2), session=7, sequence=sequence, spec=SPEC))
    file.flush()
    return file


def spoil(path: Path, file: Storage, slot: int) -> None:
    """Change a byte of an observation, on the disk alone."""
    offset = path.read_bytes().index(file.obs[slot].tobytes())
    with path.open("rb+") as raw:
        raw.seek(offset)
        byte = raw.read(1)
        raw.seek(offset)
        raw.write(bytes([byte[0] ^ 1]))


def numbers(file: Storage) -> set[int]:
    return set(file.number[file.number != 0].tolist())


def test_under_the_same_kernel_nothing_is_read_back(tmp_path: Path) -> None:
    """Its cache is whole: a restart takes no longer for a large file. Only a disk that changes
    bytes by itself is not noticed."""
    path = tmp_path / "replay"
    file = stored(path)
    spoil(path, file, slot=3)
    again = Storage(SPEC, LAYOUT, 8, path)
    assert (numbers(again), again.torn) == ({1, 2, 3, 4, 5, 6}, 0)


def restart_of_the_machine(path: Path, patch: pytest.MonkeyPatch) -> Path:
    patch.setattr(placement, "boot_id", lambda: "another kernel")
    return path


def a_system_that_does_not_tell(path: Path, patch: pytest.MonkeyPatch) -> Path:
    patch.setattr(placement, "boot_id", lambda: None)
    return path


def a_copy(path: Path, patch: pytest.MonkeyPatch) -> Path:
    return Path(shutil.copy(path, path.with_name("copy")))


def a_copy_in_its_place(path: Path, patch: pytest.MonkeyPatch) -> Path:
    backup = a_copy(path, patch)
    # A file system may give the next file the inode that is free now.
    path.unlink()
    return Path(shutil.copy(backup, path))


CASES = [restart_of_the_machine, a_system_that_does_not_tell, a_copy, a_copy_in_its_place]


@pytest.mark.parametrize("case", CASES)
def test_otherwise_every_block_is_looked_at_and_what_is_damaged_is_dropped_and_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    case: Any,
) -> None:
    path = tmp_path / "replay"
    spoil(path, stored(path), slot=3)
    path = case(path, monkeypatch)
    with caplog.at_level("INFO"):
        after = Storage(SPEC, LAYOUT, 8, path)
    assert (numbers(after), after.torn) == ({1, 2, 4, 5, 6}, 1)
    assert f"{path}: of 6 blocks 1 are torn or damaged, and are dropped" in caplog.messages
    # Once: the next server finds the file as this one left it.
    assert Storage(SPEC, LAYOUT, 8, path).torn == 0


def test_who_is_killed_while_looking_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "replay"
    spoil(path, stored(path), slot=3)
    restart_of_the_machine(path, monkeypatch)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(storage, "whole_blocks", killed)
        with pytest.raises(KeyboardInterrupt):
            Storage(SPEC, LAYOUT, 8, path)
    assert numbers(Storage(SPEC, LAYOUT, 8, path)) == {1, 2, 4, 5, 6}


def test_a_table_says_how_many_were_torn_and_takes_them_when_they_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "replay"
    table = make_table(slots=8, path=path)
    sent = [insert(steps(), session=3, sequence=i) for i in range(4)]
    for message in sent:
        table.handle(ACTOR, message, 0.0)
    table.storage.flush()
    spoil(path, table.storage, slot=4)  # The last one's.
    restart_of_the_machine(path, monkeypatch)

    after = make_table(slots=8, path=path)

    assert table_values(after)["replay_torn_blocks_total"] == 1
    assert after.sampler.size == 3 * LAYOUT.length
    assert after.handle(ACTOR, sent[3], 0.0) == [(ACTOR, Ack(3, 3))]
    assert after.sampler.size == 4 * LAYOUT.length
    assert {key // LAYOUT.length for key in draw(after).key.tolist()} <= {1, 2, 3, 5}


@pytest.mark.parametrize("nonsense", [np.nan, np.inf, -np.inf, -1.0])
def test_a_priority_that_is_none_becomes_the_largest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nonsense: float
) -> None:
    path = tmp_path / "replay"
    file = stored(path)
    file.priority[:] = 2.5
    file.priority[2] = nonsense
    restart_of_the_machine(path, monkeypatch)
    after = Storage(SPEC, LAYOUT, 8, path)
    assert (after.priority == 2.5).all()
    assert after.torn == 0


# Seven pages lie before the observations: the header, the counters and five columns.
@pytest.mark.parametrize("kept_bytes", [0, HEADER_BYTES, HEADER_BYTES + 100, 7 * HEADER_BYTES, -1])
def test_of_a_file_that_was_cut_off_the_rest_is_taken(tmp_path: Path, kept_bytes: int) -> None:
    path = tmp_path / "replay"
    file = stored(path)
    message = insert(steps(2), session=7, sequence=2, spec=SPEC)
    # The priorities come last, and are not missed; of the rest only what was flushed is there.
    with path.open("rb+") as raw:
        raw.truncate(len(file.buffer) + kept_bytes if kept_bytes < 0 else kept_bytes)
    after = Storage(SPEC, LAYOUT, 8, path)
    if kept_bytes < 0:
        assert numbers(after) == {1, 2, 3, 4, 5, 6}
        assert_is(after, 6, message, 1)
    else:
        assert numbers(after) == set()
    assert path.stat().st_size == len(after.buffer)


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, -1), (1, -(1 << 60)), (NEXT_NUMBER, -1), (NEXT_NUMBER, (1 << 62) // LAYOUT.length)],
)
def test_impossible_counters_are_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, value: int
) -> None:
    path = tmp_path / "replay"
    stored(path).counters[place] = value
    restart_of_the_machine(path, monkeypatch)
    with pytest.raises(CheckpointError) as refused:
        Storage(SPEC, LAYOUT, 8, path)
    assert str(refused.value) == (
        f"{path} is damaged (its counters are impossible): remove it to start without its "
        "experience"
    )


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (b"zapex replay 2\n{}", "holds experience in the format of another release: resume with"),
        (b"\0damaged", "is no replay's file, or its beginning is damaged: remove it"),
        (b"zapex replay 4\n{}", "holds experience of another environment, block layout or cap"),
    ],
)
def test_a_beginning_that_is_not_this_ones_is_one_clear_line(
    tmp_path: Path, header: bytes, line: str
) -> None:
    path = tmp_path / "replay"
    stored(path)
    with path.open("rb+") as raw:
        raw.write(header.ljust(HEADER_BYTES, b"\0"))
    with pytest.raises(CheckpointError) as refused:
        Storage(SPEC, LAYOUT, 8, path)
    assert str(refused.value).startswith(f"{path} {line}")


def test_blocks_of_pictures_are_checked_as_well(tmp_path: Path) -> None:
    spec, layout = EnvSpec((84, 84), "|u1", 6), BlockLayout(length=16, n_step=3, context=3)
    path = tmp_path / "replay"
    file = Storage(spec, layout, 3, path)
    file.write(insert(steps(2, layout), layout=layout, spec=spec))
    file.flush()
    file.obs[2, -1, -1, -1] ^= 255  # The last pixel of block 2.
    after = Storage(spec, layout, 3, Path(shutil.copy(path, tmp_path / "copy")))
    assert (numbers(after), after.torn) == ({1}, 1)


def test_what_was_not_committed_is_not_there_and_its_numbers_are_not_given_again(
    tmp_path: Path,
) -> None:
    """The counters' page reached the disk before the last insert's: of that one there may be a
    part. A learner on another host may have been told of it."""
    path = tmp_path / "replay"
    file = stored(path)
    file.counters[NEXT_NUMBER] = 5
    file.flush()
    spoil(path, file, slot=5)
    after = Storage(SPEC, LAYOUT, 8, Path(shutil.copy(path, tmp_path / "copy")))
    assert (numbers(after), after.torn, after.next_number) == ({1, 2, 3, 4}, 0, 7)
