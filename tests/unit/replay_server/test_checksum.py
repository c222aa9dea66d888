"""A block's checksum against whole numbers, one word at a time."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.blocks import BlockLayout
from common.spec import EnvSpec
from replay_server.checksum import block_checksum, whole_blocks
from replay_server.storage import Storage
from tests.experience import LAYOUT, SPEC, insert, steps

ONES = (1 << 64) - 1
KEY, WEYL = 0x9FB21C651E98DF25, 0x9E3779B97F4A7C15


def mixed(z: int) -> int:
    """SplitMix64's finaliser."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & ONES
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & ONES
    return z ^ (z >> 31)


def keyed(word: int, i: int) -> int:
    return word ^ (KEY + i * WEYL) & ONES


def product(x: int) -> int:
    return (x % (1 << 32)) * (x >> 32)


def term(word: int, i: int) -> int:
    return product(keyed(word, i)) + word


def rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & ONES


def slow_sum(column: bytes, begin: int, nbytes: int) -> int:
    end = begin + nbytes
    words = []
    for word_at in range(begin - begin % 8, end, 8):
        # Bytes of other blocks are taken as 0.
        own = [column[at] if begin <= at < end else 0 for at in range(word_at, word_at + 8)]
        words.append(int.from_bytes(bytes(own), "little"))
    total = term(words[0], 0)
    if len(words) > 1:
        total += term(words[-1], 1)
    middle = words[1:-1]
    quarter = len(middle) // 4
    for i in range(quarter):
        four = [middle[i + k * quarter] for k in range(4)]
        folded = sum(rotated(keyed(word, i + 1), 16 * k) for k, word in enumerate(four))
        total += product(folded & ONES)
    for i, word in enumerate(middle[4 * quarter :], quarter + 1):
        total += term(word, i)
    return total & ONES


def slow_checksum(storage: Storage, slot: int) -> int:
    facts = (storage.number, storage.session, storage.sequence, storage.version)
    words = [int(fact[slot]) for fact in facts]
    for column, nbytes in (
        (storage.obs_words, storage.obs_bytes),
        (storage.step_words, storage.step_bytes),
    ):
        words.append(slow_sum(column.tobytes(), slot * nbytes, nbytes))
    return mixed(sum(term(word, i) for i, word in enumerate(words)) & ONES)


def whole(storage: Storage) -> list[bool]:
    found = whole_blocks(
        storage.checksum,
        storage.number,
        storage.session,
        storage.sequence,
        storage.version,
        storage.obs_words,
        storage.obs_bytes,
        storage.step_words,
        storage.step_bytes,
    )
    return list(found)


def filled(spec: EnvSpec = SPEC, layout: BlockLayout = LAYOUT) -> Storage:
    """Blocks 1 … 5 in four slots: number 5 lies in slot 1, over number 1."""
    storage = Storage(spec, layout, slots=4)
    for sequence, blocks in enumerate((2, 3)):
        storage.write(insert(steps(blocks, layout), sequence=sequence, layout=layout, spec=spec))
    return storage


@pytest.mark.parametrize(
    ("spec", "layout"),
    [
        (SPEC, LAYOUT),
        # 2 rows of 3 bytes: all of a block's bytes in one word; blocks begin anywhere in a word.
        (EnvSpec((3,), "|u1", 5), BlockLayout(length=1, n_step=1)),
        # 5 rows of 1 byte: blocks that share words, and such as lie across two.
        (EnvSpec((1,), "|u1", 5), BlockLayout(length=3, n_step=2)),
        (EnvSpec((7, 7), "|u1", 5), BlockLayout(length=5, n_step=3, context=3)),
        (EnvSpec((), "<i8", 5), LAYOUT),
    ],
    ids=["vectors", "within a word", "across words", "pictures", "numbers"],
)
def test_it_is_the_formula(spec: EnvSpec, layout: BlockLayout) -> None:
    storage = filled(spec, layout)
    expected = [slow_checksum(storage, slot) for slot in range(4)]
    assert storage.checksum.tolist() == expected
    assert len(set(expected)) == 4
    assert whole(storage) == [True] * 4


@given(st.integers(0, 3), st.integers(0, 1_000), st.integers(1, 255))
@example(slot=3, place=0, flip=1)
def test_no_changed_byte_goes_unnoticed_and_nobody_elses_is_looked_at(
    slot: int, place: int, flip: int
) -> None:
    storage = filled(EnvSpec((3,), "|u1", 5))
    columns = [storage.number, storage.session, storage.sequence, storage.version]
    column_bytes = [
        *((column.view(np.uint8), 8) for column in columns),
        (storage.obs_words.view(np.uint8), storage.obs_bytes),
        (storage.step_words.view(np.uint8), storage.step_bytes),
    ]
    # Places count through the block's bytes in all columns.
    place %= sum(nbytes for _, nbytes in column_bytes)
    for column, nbytes in column_bytes:
        if place < nbytes:
            column[slot * nbytes + place] ^= flip
            break
        place -= nbytes
    assert whole(storage) == [s != slot for s in range(4)]


def test_pictures_of_one_colour_that_change_places_are_noticed() -> None:
    """What is folded together must not make up for one another."""
    spec, layout = EnvSpec((16, 16), "|u1", 5), BlockLayout(length=16, n_step=1)
    storage = filled(spec, layout)
    obs = storage.obs[2]
    quarter = len(obs) // 4
    colours = np.repeat(np.arange(1, 5, dtype=np.uint8), quarter)
    orders = [p for p in itertools.permutations(range(4)) if p != (0, 1, 2, 3)]
    obs[: 4 * quarter] = colours[:, None, None]
    columns = (storage.number, storage.session, storage.sequence, storage.version)
    storage.checksum[2] = block_checksum(
        2, *(int(column[2]) for column in columns),
        storage.obs_words, storage.obs_bytes, storage.step_words, storage.step_bytes,
    )  # fmt: skip
    assert whole(storage)[2]
    for order in orders:
        permuted = colours.reshape(4, quarter)[list(order)].reshape(-1)
        obs[: 4 * quarter] = permuted[:, None, None]
        assert not whole(storage)[2], order


def test_the_checksum_itself_may_be_what_is_damaged() -> None:
    storage = filled()
    storage.checksum[2] ^= np.uint64(1)
    assert whole(storage) == [True, True, False, True]


def test_priorities_change_and_are_not_in_it() -> None:
    storage = filled()
    storage.priority[:] = 77.0
    assert whole(storage) == [True] * 4


def test_a_block_in_another_slot_than_its_number_says_is_none() -> None:
    storage = Storage(EnvSpec((8,), "|u1", 5), BlockLayout(length=5, n_step=3), slots=4)
    storage.write(insert(steps(1, storage.layout), layout=storage.layout, spec=storage.spec))
    facts = ("number", "session", "sequence", "version", "checksum")
    for name in (*facts, "obs", "action", "reward", "row_kind"):
        column = getattr(storage, name)
        column[2] = column[1]
    assert whole(storage) == [False, True, False, False]


def test_an_empty_slot_is_no_block() -> None:
    assert whole(Storage(SPEC, LAYOUT, slots=3)) == [False] * 3
