"""An insert's images are unpacked once where it is stored at once, and come out as they went in
however many others were looked at meanwhile."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.compression import METHODS
from common.errors import MalformedMessage
from common.messages import Ack, Insert, Rejected
from common.packing import compressed
from replay_server.checks import InsertCheck
from replay_server.storage import Storage
from tests.experience import insert, steps
from tests.unit.replay_server.tables import (
    ACTOR,
    IMAGE_BLOCKS,
    IMAGE_LAYOUT,
    IMAGES,
    images,
    make_table,
    packed_insert,
    unpackings,
)


def damaged(good: Insert) -> Insert:
    """Fails only when most of it is unpacked."""
    obs: Any = good.obs
    data = obs.data[:-1].copy()
    data[4:8].view("<u4")[0] -= 1  # The size of its only part.
    return replace(good, obs=replace(obs, data=data))


@pytest.fixture
def storage() -> Storage:
    return Storage(IMAGES, IMAGE_LAYOUT, slots=4)


@pytest.mark.parametrize("method", METHODS)
def test_what_was_looked_at_last_is_unpacked_and_what_was_before_is_not(
    storage: Storage, method: str
) -> None:
    checks, first, second = InsertCheck(storage), packed_insert(1, method), packed_insert(2, method)

    checks.unpack(first)
    np.testing.assert_array_equal(np.asarray(checks.observations(first)), images(1))
    checks.unpack(second)
    assert checks.observations(first) is first.obs
    np.testing.assert_array_equal(np.asarray(checks.observations(second)), images(2))


def test_after_images_that_cannot_be_unpacked_nothing_is_taken_for_what_came_before(
    storage: Storage,
) -> None:
    checks, good, bad = InsertCheck(storage), packed_insert(1), packed_insert(2, "delta")
    bad = damaged(bad)
    checks.unpack(good)

    before = checks._scratch.copy()
    with pytest.raises(MalformedMessage, match="no differences of frames"):
        checks.unpack(bad)
    assert (checks._scratch != before).any()

    assert checks.observations(good) is good.obs
    assert checks.observations(bad) is bad.obs


def test_a_smaller_insert_is_unpacked_where_a_larger_one_was(storage: Storage) -> None:
    checks, large = InsertCheck(storage), packed_insert(1)
    small = insert(steps(1, IMAGE_LAYOUT), layout=IMAGE_LAYOUT, spec=IMAGES)
    small = replace(small, obs=compressed(images(2)[:1], "delta+lz4"))
    checks.unpack(large)
    checks.unpack(small)
    np.testing.assert_array_equal(np.asarray(checks.observations(small)), images(2)[:1])


def test_images_that_are_not_compressed_are_taken_from_the_insert(storage: Storage) -> None:
    checks, plain = InsertCheck(storage), packed_insert(1)
    plain = replace(plain, obs=images(1))
    checks.unpack(plain)
    assert checks.observations(plain) is plain.obs


@pytest.mark.parametrize("first_block", range(4))
@pytest.mark.parametrize("unpacked", [False, True])
def test_both_are_stored_as_they_were_sent(
    storage: Storage, first_block: int, unpacked: bool
) -> None:
    # From every slot on, also around the end.
    for _ in range(first_block):
        storage.write(insert(steps(1, IMAGE_LAYOUT), layout=IMAGE_LAYOUT, spec=IMAGES))
    checks, message = InsertCheck(storage), packed_insert(1)
    checks.unpack(message)

    first, _ = storage.write(message, checks.observations(message) if unpacked else None)

    slots = [(first + block) % storage.slots for block in range(IMAGE_BLOCKS)]
    np.testing.assert_array_equal(storage.obs[slots], images(1))


def test_an_insert_that_is_stored_at_once_is_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table, found = make_table(slots=8, spec=IMAGES, layout=IMAGE_LAYOUT), unpackings(monkeypatch)
    for sequence in range(3):
        table.handle(ACTOR, packed_insert(sequence, sequence=sequence), 0.0)
    assert len(found) == 3
    stored = table.storage.obs[1:7].reshape(3, *images(0).shape)
    np.testing.assert_array_equal(stored, [images(sequence) for sequence in range(3)])


def test_what_is_not_taken_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    # An actor may send a few bytes that unpack to hundreds of megabytes, again and again.
    table = make_table(slots=8, spec=IMAGES, layout=IMAGE_LAYOUT, insert_window=1)
    table.handle(ACTOR, packed_insert(0), 0.0)
    found = unpackings(monkeypatch)
    again, behind_a_gap = packed_insert(0), replace(packed_insert(2, sequence=2), oldest=0)
    assert table.replies(ACTOR, again, 0.0) == [(ACTOR, Ack(0, 0))]
    assert table.replies(ACTOR, behind_a_gap, 0.0) == []
    assert found == []
    within, beyond_the_window = (replace(packed_insert(s, sequence=s), oldest=0) for s in (1, 2))
    assert table.replies(ACTOR, within, 0.0) == []
    ((_, refusal),) = table.replies(ACTOR, beyond_the_window, 0.0)
    assert isinstance(refusal, Rejected)
    assert len(found) == 1


def test_inserts_that_waited_are_stored_as_they_were_sent() -> None:
    table = make_table(slots=8, spec=IMAGES, layout=IMAGE_LAYOUT)
    for sequence in range(3):
        assert table.replies(ACTOR, packed_insert(sequence, sequence=sequence), 0.0) == []
    list(table.advance())
    stored = table.storage.obs[1:7].reshape(3, *images(0).shape)
    np.testing.assert_array_equal(stored, [images(sequence) for sequence in range(3)])
