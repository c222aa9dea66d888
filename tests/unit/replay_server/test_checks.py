"""An insert's images are unpacked once where it is stored at once, and come out as they went in
however many others were looked at meanwhile."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from common.blocks import BlockLayout
from common.compression import METHODS, CompressedArray, compressed
from common.errors import MalformedMessage
from common.messages import Insert
from common.spec import EnvSpec
from replay_server.checks import InsertCheck
from replay_server.storage import Storage
from tests.experience import insert, steps

IMAGES = EnvSpec((84, 84), "|u1", 5)
LAYOUT = BlockLayout(length=4, n_step=3, context=1)
BLOCKS = 2


def images(seed: int) -> npt.NDArray[np.uint8]:
    """Of an insert: squares of many greys, so that they get smaller."""
    squares = np.random.default_rng(seed).integers(0, 256, (BLOCKS, LAYOUT.rows, 12, 12), np.uint8)
    return squares.repeat(7, axis=2).repeat(7, axis=3)


def packed_insert(seed: int, method: str = "lz4") -> Insert:
    obs = compressed(images(seed), method)
    assert isinstance(obs, CompressedArray)
    return replace(insert(steps(BLOCKS, LAYOUT), layout=LAYOUT, spec=IMAGES), obs=obs)


def damaged(good: Insert) -> Insert:
    """Fails only when all but its end is unpacked."""
    obs: Any = good.obs
    return replace(good, obs=replace(obs, data=obs.data[:-1]))


@pytest.fixture
def storage() -> Storage:
    return Storage(IMAGES, LAYOUT, slots=4)


@pytest.mark.parametrize("method", METHODS)
def test_what_was_looked_at_last_is_unpacked_and_what_was_before_is_not(
    storage: Storage, method: str
) -> None:
    checks, first, second = InsertCheck(storage), packed_insert(1, method), packed_insert(2, method)

    checks.check(first)
    np.testing.assert_array_equal(np.asarray(checks.observations(first)), images(1))
    checks.check(second)
    assert checks.observations(first) is first.obs
    np.testing.assert_array_equal(np.asarray(checks.observations(second)), images(2))


def test_after_images_that_cannot_be_unpacked_nothing_is_taken_for_what_came_before(
    storage: Storage,
) -> None:
    checks, good, bad = InsertCheck(storage), packed_insert(1), packed_insert(2)
    bad = damaged(bad)
    checks.check(good)

    with pytest.raises(MalformedMessage):
        checks.check(bad)

    assert checks.observations(good) is good.obs
    assert checks.observations(bad) is bad.obs


def test_a_smaller_insert_is_unpacked_where_a_larger_one_was(storage: Storage) -> None:
    checks, large = InsertCheck(storage), packed_insert(1)
    small = insert(steps(1, LAYOUT), layout=LAYOUT, spec=IMAGES)
    small = replace(small, obs=compressed(images(2)[:1], "lz4"))
    checks.check(large)
    checks.check(small)
    np.testing.assert_array_equal(np.asarray(checks.observations(small)), images(2)[:1])


def test_images_that_are_not_compressed_are_taken_from_the_insert(storage: Storage) -> None:
    checks, plain = InsertCheck(storage), packed_insert(1)
    plain = replace(plain, obs=images(1))
    checks.check(plain)
    assert checks.observations(plain) is plain.obs


@pytest.mark.parametrize("first_block", range(4))
@pytest.mark.parametrize("unpacked", [False, True])
def test_both_are_stored_as_they_were_sent(
    storage: Storage, first_block: int, unpacked: bool
) -> None:
    # From every slot on, also around the end.
    for _ in range(first_block):
        storage.write(insert(steps(1, LAYOUT), layout=LAYOUT, spec=IMAGES))
    checks, message = InsertCheck(storage), packed_insert(1)
    checks.check(message)

    first, _ = storage.write(message, checks.observations(message) if unpacked else None)

    slots = [(first + block) % storage.slots for block in range(BLOCKS)]
    np.testing.assert_array_equal(storage.obs[slots], images(1))
