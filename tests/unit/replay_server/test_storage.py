"""Block storage against a dictionary of the newest blocks, in memory and in a file."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.blocks import BlockLayout
from common.errors import CheckpointError, ZapexError
from common.spec import EnvSpec
from common.transitions import copy_frames, find_transitions
from replay_server.storage import Storage
from tests.experience import (
    DISCOUNT,
    FIRST,
    LAYOUT,
    SPEC,
    STEP,
    TERMINATED,
    TRUNCATED,
    Kinds,
    Transition,
    insert,
    row_kinds,
    seen,
    steps,
    transitions,
)

LAYOUTS = [
    LAYOUT,
    BlockLayout(length=1, n_step=1),
    BlockLayout(length=3, n_step=1, context=3),
    BlockLayout(length=5, n_step=4, context=1),
]
SPECS = [
    SPEC,
    EnvSpec((), "<i8", 5),
    EnvSpec((3,), "<f8", 5),
    EnvSpec((2, 2, 1), "|u1", 5),
    EnvSpec((1,), "<f2", 5),
]


@st.composite
def histories(draw: st.DrawFn) -> tuple[EnvSpec, BlockLayout, int, list[Kinds]]:
    """What is stored, how many slots for it, and inserts that fit into them."""
    layout, slots = draw(st.sampled_from(LAYOUTS)), draw(st.integers(1, 5))
    inserts = draw(st.lists(row_kinds(layout, max_blocks=slots), min_size=1, max_size=6))
    return draw(st.sampled_from(SPECS)), layout, slots, inserts


@settings(max_examples=150)
@given(histories())
@example(
    (SPEC, LAYOUT, 2, [[[TERMINATED] * LAYOUT.rows], [[TRUNCATED] * LAYOUT.rows], *[steps()] * 3])
)
def test_the_newest_blocks_are_there_and_read_as_a_slow_walk_reads_them(
    history: tuple[EnvSpec, BlockLayout, int, list[Kinds]],
) -> None:
    spec, layout, slots, inserts = history
    storage = Storage(spec, layout, slots)
    slot_of: dict[int, int] = {}  # of each block number that is still stored
    expected: dict[int, tuple[Transition, int]] = {}  # by key; beside it the weights version
    number = 0
    for sequence, kinds in enumerate(inserts):
        message = insert(
            kinds, sequence=sequence, weights_version=10 * sequence, layout=layout, spec=spec
        )
        first, starts = storage.write(message)

        slow = transitions(message, layout)
        assert {(block, i) for block, i in np.argwhere(starts).tolist()} == set(slow)
        for block in range(len(kinds)):
            number += 1  # Block numbers count up from 1.
            slot_of[number] = (first + block) % slots
            for (b, i), transition in slow.items():
                if b == block:
                    expected[number * layout.length + i] = transition, message.weights_version
        # The newest `slots` blocks are left, each in a slot of its own.
        slot_of = {n: slot for n, slot in slot_of.items() if n > number - slots}
        expected = {key: e for key, e in expected.items() if key // layout.length in slot_of}
        assert len(set(slot_of.values())) == len(slot_of)
        assert set(slot_of.values()) <= set(range(slots))

        assert_holds(storage, slot_of, expected)


def assert_holds(
    storage: Storage, slot_of: dict[int, int], expected: dict[int, tuple[Transition, int]]
) -> None:
    length = storage.layout.length
    asked = np.arange(-2, (max(slot_of) + 2 * storage.slots + 1) * length)
    items, live = storage.live_items(asked)
    keys = asked[live].tolist()
    assert set(keys) == set(expected)
    assert items[live].tolist() == [slot_of[key // length] * length + key % length for key in keys]
    if not keys:
        return

    # In another order, and some of them twice.
    order = np.random.default_rng(0).integers(len(keys), size=2 * len(keys))
    chosen = items[live][order]
    found = find_transitions(storage, chosen, DISCOUNT)
    assert found.key.tolist() == [keys[i] for i in order]
    assert storage.keys(chosen).tolist() == found.key.tolist()
    gathered = [expected[k] for k in found.key.tolist()]
    assert found.mean_version == pytest.approx(np.mean([v for _, v in gathered]))
    walked = [transition for transition, _ in gathered]
    obs, next_obs = seen(copy_frames(storage, found.rows), found.shift, storage.layout)
    assert obs == [t.obs for t in walked]
    assert found.action.tolist() == [t.action for t in walked]
    assert found.n_step_return.tolist() == [t.n_step_return for t in walked]
    assert found.discount.tolist() == [t.discount for t in walked]
    assert next_obs == [t.next_obs for t in walked]
    priority = storage.priority.reshape(-1)[items[live][order]]
    assert priority.tolist() == [t.priority for t in walked]


@given(
    history=histories(),
    pairs=st.lists(st.tuples(st.integers(-3, 60), st.integers(0, 8)), max_size=30),
)
@example(history=(SPEC, LAYOUT, 2, [steps()]), pairs=[(4, 1), (5, 2), (4, 3)])
def test_priorities_are_written_where_they_belong_and_nowhere_else(
    history: tuple[EnvSpec, BlockLayout, int, list[Kinds]], pairs: list[tuple[int, int]]
) -> None:
    spec, layout, slots, inserts = history
    storage = Storage(spec, layout, slots)
    for kinds in inserts:
        storage.write(insert(kinds, layout=layout, spec=spec))
    keys = np.array([key for key, _ in pairs], np.int64)
    priority = np.array([value for _, value in pairs], np.float32)
    places, live = storage.live_items(keys)
    expected = storage.priority.reshape(-1).copy()
    for place, value in zip(places[live], priority[live], strict=True):
        expected[place] = value

    items, stored = storage.write_priorities(keys, priority)

    assert (items.tolist(), stored.tolist()) == (places[live].tolist(), priority[live].tolist())
    assert storage.priority.reshape(-1).tolist() == expected.tolist()


def test_a_block_by_hand() -> None:
    # row          0      1     2      3           4      5     6      (length 4, n 3, γ ½)
    # reward       1      2     4      99 (trap)   16     32    64
    kinds = [FIRST, STEP, STEP, TERMINATED, FIRST, STEP, STEP]
    message = insert([kinds], weights_version=7)
    message.reward[:] = [[1, 2, 4, 99, 16, 32, 64]]
    message.obs[:] = np.arange(7)[None, :, None]
    message.action[:] = [[0, 1, 2, 4, 3, 2, 1]]
    storage = Storage(SPEC, LAYOUT, slots=3)
    slot, starts = storage.write(message)

    assert slot == 1  # Block 1 lies in slot 1 mod 3.
    assert starts.tolist() == [[True, True, True, False]]
    found = find_transitions(storage, np.array([4, 5, 6]), DISCOUNT)
    frames = copy_frames(storage, found.rows)
    assert frames[:, :, 0].tolist() == [[0, 3], [1, 3], [2, 3]]
    assert found.shift.tolist() == [1, 1, 1]
    assert found.action.tolist() == [0, 1, 2]
    assert found.n_step_return.tolist() == [1 + 2 / 2 + 4 / 4, 2 + 4 / 2, 4]
    assert found.discount.tolist() == [0, 0, 0]
    assert found.key.tolist() == [4, 5, 6]
    assert found.mean_version == 7


def test_stacks_by_hand() -> None:
    # row         0     1     2      3           4      5     6     7     (context 2, length 4, n 2)
    kinds = [[STEP, STEP, STEP, TERMINATED, FIRST, STEP, STEP, STEP]]
    layout = BlockLayout(length=4, n_step=2, context=2)
    message = insert(kinds, layout=layout)
    message.obs[:] = np.arange(8)[None, :, None]
    storage = Storage(SPEC, layout, slots=1)
    storage.write(message)
    found = find_transitions(storage, np.array([0, 2, 3]), DISCOUNT)
    frames = copy_frames(storage, found.rows)[:, :, 0]
    # Row 2: its stack, then the row that ends the episode one step later (twice: nobody reads the
    # last place). Rows 4 and 5: nothing of the episode before; its first row stands in.
    assert frames.tolist() == [[0, 1, 2, 3, 3], [4, 4, 4, 5, 6], [4, 4, 5, 6, 7]]
    assert found.shift.tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    "key",
    [0, 3, -1, -(1 << 63), (1 << 63) - 1, 4 * 2 + 0, 4 * 5 + 0],
    ids=["block 0", "block 0", "negative", "lowest", "highest", "not yet", "same slot as 1"],
)
def test_keys_that_nobody_was_given_name_nothing(key: int) -> None:
    storage = Storage(SPEC, LAYOUT, slots=4)
    storage.write(insert(steps()))  # Block 1, keys 4 … 7.

    items, live = storage.live_items(np.array([key, 4, key]))

    assert live.tolist() == [False, True, False]
    assert items[1] == 4


def test_keys_from_a_frame_at_an_odd_address_are_read_like_others() -> None:
    storage = Storage(SPEC, LAYOUT, slots=4)
    storage.write(insert(steps()))
    frame = b"\x00" + np.array([4, 99], np.int64).tobytes()

    _, live = storage.live_items(np.frombuffer(memoryview(frame)[1:], np.int64))

    assert live.tolist() == [True, False]


# ------------------------------------------------------------------------------------- in a file


def test_a_file_keeps_every_column_and_the_numbering_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "new" / "replay.bin"
    first = Storage(SPEC, LAYOUT, slots=3, path=path)
    messages = [insert(steps(2), session=5, sequence=i, weights_version=i) for i in range(2)]
    for message in messages:
        first.write(message)
    first.counters[:2] = [16, 99]
    first.flush()

    again = Storage(SPEC, LAYOUT, slots=3, path=path)

    assert again.next_number == 5
    assert again.counters[:2].tolist() == [16, 99]
    # Blocks 1 … 4; block 1 lay in slot 1 and gave way to block 4.
    assert again.number.tolist() == [3, 4, 2]
    assert again.session.tolist() == [5, 5, 5]
    assert again.sequence.tolist() == [1, 1, 0]
    assert again.version.tolist() == [1, 1, 0]
    for slot, (message, block) in enumerate([(messages[1], 0), (messages[1], 1), (messages[0], 1)]):
        for column in ("obs", "action", "reward", "row_kind", "priority"):
            stored, sent = getattr(again, column)[slot], getattr(message, column)[block]
            assert np.array_equal(stored, sent), column
    assert again.write(insert(steps()))[0] == 5 % 3


def test_an_empty_storage_in_a_file_begins_at_block_1(tmp_path: Path) -> None:
    (tmp_path / "replay.bin").touch()
    storage = Storage(SPEC, LAYOUT, slots=2, path=tmp_path / "replay.bin")

    assert storage.next_number == 1
    assert (tmp_path / "replay.bin").stat().st_size == storage.nbytes


@pytest.mark.parametrize(
    ("spec", "layout", "slots"),
    [
        (EnvSpec((3,), "<f4", 5), LAYOUT, 4),
        (EnvSpec((2,), "<f8", 5), LAYOUT, 4),
        (EnvSpec((2,), "<i4", 5), LAYOUT, 4),
        (EnvSpec((2,), "<f4", 4), LAYOUT, 4),
        (EnvSpec((2, 1), "<f4", 5), LAYOUT, 4),
        (SPEC, BlockLayout(length=5, n_step=3), 4),
        (SPEC, BlockLayout(length=4, n_step=4), 4),
        (SPEC, BlockLayout(length=4, n_step=3, context=1), 4),
        # As many rows in a block, shared out otherwise.
        (SPEC, BlockLayout(length=3, n_step=4), 4),
        (SPEC, BlockLayout(length=4, n_step=2, context=1), 4),
        (SPEC, BlockLayout(length=3, n_step=3, context=1), 4),
        (SPEC, LAYOUT, 5),
        (SPEC, LAYOUT, 3),
    ],
)
def test_a_file_of_another_shape_is_refused_and_left_alone(
    tmp_path: Path, spec: EnvSpec, layout: BlockLayout, slots: int
) -> None:
    path = tmp_path / "replay.bin"
    Storage(SPEC, LAYOUT, 4, path).write(insert(steps()))
    before = path.read_bytes()

    with pytest.raises(CheckpointError, match="holds experience of another environment"):
        Storage(spec, layout, slots, path)

    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"something else", b"zapex replay 0\n{}", b"\0\0\0x" * 2_000])
def test_a_file_that_is_no_replay_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "replay.bin"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=str(path)):
        Storage(SPEC, LAYOUT, 4, path)

    assert path.read_bytes() == content


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_noticed_at_the_start_and_costs_nothing_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "replay.bin"

    def refuse(fd: int, offset: int, nbytes: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as full:
        full.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(ZapexError, match=f"no room for a replay of 0.00 GB at {path}"):
            Storage(SPEC, LAYOUT, 4, path)

    assert Storage(SPEC, LAYOUT, 4, path).next_number == 1
