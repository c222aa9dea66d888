"""The replay table against a dictionary of transitions: what a learner is given, and what an actor
is told."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import replay_server.sessions
from common.errors import Reason
from common.messages import Ack, Batch, Rejected, SampleRequest
from replay_server.table import MAX_GIVEN_UP, Table
from tests.experience import (
    LAYOUT,
    Kinds,
    Transition,
    insert,
    row_kinds,
    seen,
    steps,
    transitions,
)
from tests.unit.replay_server.tables import (
    ACTOR,
    LEARNER,
    draw,
    make_table,
    power_law,
    rejected,
    request,
    updates,
)

# ----------------------------------------------------------------------------- what is in a batch

SLOTS = 3
EVERYTHING = 128
"""A stratified batch of this size holds each of 12 transitions: the least likely one fills 2 of
128 strata, 0.25^0.6 / (0.25^0.6 + 11 · 4^0.6) > 2/128."""


@settings(max_examples=150)
@given(
    st.lists(st.one_of(row_kinds(max_blocks=SLOTS), updates()), min_size=1, max_size=10),
    st.booleans(),
)
def test_batches_hold_the_transitions_of_the_newest_blocks_with_their_latest_priorities(
    operations: list[Kinds | SampleRequest], prioritized: bool
) -> None:
    table = make_table(slots=SLOTS, batch_size=EVERYTHING, prioritized=prioritized)
    blocks: deque[dict[int, Transition]] = deque(maxlen=SLOTS)
    priority: dict[int, float] = {}
    number = sequence = inserted = sampled = fresh = stale = 0
    for operation in operations:
        if not isinstance(operation, SampleRequest):
            message = insert(operation, sequence=sequence, weights_version=sequence)
            assert table.handle(ACTOR, message, 0.0) == [(ACTOR, Ack(0, sequence))]
            sequence += 1
            walked = transitions(message)
            inserted += len(walked)
            for block in range(len(operation)):
                number += 1
                keyed = {
                    number * LAYOUT.length + i: t for (b, i), t in walked.items() if b == block
                }
                blocks.append(keyed)
                priority |= {key: t.priority for key, t in keyed.items()}
        else:
            assert table.handle(LEARNER, operation, 0.0) == []
            pairs = zip(operation.key.tolist(), operation.priority.tolist(), strict=True)
            live = [(key, p) for key, p in pairs if any(key in block for block in blocks)]
            priority.update(live)  # Of two priorities for one key, the last one counts.
            fresh += len(live)
            stale += len(operation.key) - len(live)

        stored = {key: transition for block in blocks for key, transition in block.items()}
        assert table.sampler.size == len(stored)
        assert table.counters.inserted_blocks == number
        assert (table.counters.updates, table.counters.stale_updates) == (fresh, stale)
        if not stored:
            continue
        batch = draw(table)
        sampled += EVERYTHING
        assert (batch.table_size, batch.inserted, batch.sampled) == (len(stored), inserted, sampled)
        assert_equal_transitions(batch, stored)
        expected = (
            power_law({key: priority[key] for key in stored})
            if prioritized
            else dict.fromkeys(stored, 1 / len(stored))
        )
        if prioritized:
            assert set(batch.key.tolist()) == set(stored)
        assert batch.probability.tolist() == pytest.approx(
            [expected[key] for key in batch.key.tolist()], rel=1e-6
        )


def assert_equal_transitions(batch: Batch, stored: dict[int, Transition]) -> None:
    walked = [stored[key] for key in batch.key.tolist()]
    obs, next_obs = seen(batch.frames, batch.shift)
    assert obs == [t.obs for t in walked]
    assert batch.action.tolist() == [t.action for t in walked]
    assert batch.n_step_return.tolist() == [t.n_step_return for t in walked]
    assert batch.discount.tolist() == [t.discount for t in walked]
    assert next_obs == [t.next_obs for t in walked]


def test_the_mean_version_is_that_of_the_sampled_transitions() -> None:
    table = make_table(batch_size=64, prioritized=False)
    table.handle(ACTOR, insert(steps(), weights_version=10), 0.0)
    table.handle(ACTOR, insert(steps(), sequence=1, weights_version=20), 0.0)
    batch = draw(table)

    of_block = {1: 10, 2: 20}
    assert batch.mean_version == np.mean([of_block[key // LAYOUT.length] for key in batch.key])


def test_a_priority_for_an_evicted_transition_changes_nothing_and_is_counted() -> None:
    table = make_table(slots=1, batch_size=EVERYTHING)
    table.handle(ACTOR, insert(steps()), 0.0)
    old = draw(table)
    table.handle(ACTOR, insert(steps(), sequence=1), 0.0)
    before = draw(table)

    table.handle(LEARNER, request(0, [(int(key), 99.0) for key in old.key]), 0.0)

    assert (table.counters.updates, table.counters.stale_updates) == (0, EVERYTHING)
    after = draw(table)
    assert dict(zip(after.key, after.probability, strict=True)) == dict(
        zip(before.key, before.probability, strict=True)
    )


# ------------------------------------------------------------------------------ acknowledgements


def test_an_insert_that_was_stored_before_is_acknowledged_and_not_stored() -> None:
    table = make_table()
    for sequence in (0, 1):
        table.handle(ACTOR, insert(steps(), session=7, sequence=sequence), 0.0)

    for sequence in (1, 0, 0):
        again = table.handle(ACTOR, insert(steps(2), session=7, sequence=sequence), 0.0)
        assert again == [(ACTOR, Ack(7, sequence))]

    assert table.sampler.size == table.limiter.inserts == 2 * LAYOUT.length
    assert (table.counters.inserted_blocks, table.counters.duplicates) == (2, 3)


def test_the_same_sequence_of_another_session_is_another_insert() -> None:
    table = make_table()
    for session in (0, 1, 1 << 62):
        replies = table.handle(ACTOR, insert(steps(), session=session), 0.0)
        assert replies == [(ACTOR, Ack(session, 0))]

    assert table.counters.inserted_blocks == 3
    assert table.counters.duplicates == 0


def test_inserts_beyond_the_band_wait_and_are_acknowledged_in_order_as_samples_are_taken() -> None:
    # One sample for each insert; each insert and each batch has 4; the band is 0 ± 4.
    table = make_table(samples_per_insert=1.0, min_size_to_sample=4, tolerance=4.0)
    acknowledged = [table.handle(ACTOR, insert(steps(), sequence=i), 0.0) for i in range(5)]

    # error after each: 0, 4, 8 (one insert beyond the edge), and there it stays.
    stored = [[(ACTOR, Ack(0, i))] for i in range(3)]
    assert acknowledged == [*stored, [], []]
    assert table.sampler.size == 3 * LAYOUT.length

    for sequence in (3, 4):
        # error 8 → 4 by the batch → 8 by the next insert in line
        (learner, batch), ack = table.handle(LEARNER, request(), 0.0)
        assert learner == LEARNER
        assert isinstance(batch, Batch)
        assert batch.inserted == 4 * sequence
        assert ack == (ACTOR, Ack(0, sequence))
    assert len(table.handle(LEARNER, request(), 0.0)) == 1


def full_table_with_two_waiting() -> Table:
    table = make_table(samples_per_insert=1.0, min_size_to_sample=4, tolerance=4.0, insert_window=2)
    for sequence in range(5):  # 0 … 2 are stored, 3 and 4 wait.
        table.handle(ACTOR, insert(steps(), sequence=sequence, oldest=min(sequence, 3)), 0.0)
    return table


def test_a_reconnected_peer_is_acknowledged_at_its_new_address_and_stored_once() -> None:
    table = full_table_with_two_waiting()

    resent = [table.handle(b"anew", insert(steps(), sequence=i), 0.0) for i in (2, 3, 4)]

    assert resent == [[(b"anew", Ack(0, 2))], [], []]
    replies = table.handle(LEARNER, request(2), 0.0)
    assert [reply for reply in replies if reply[0] != LEARNER] == [
        (b"anew", Ack(0, 3)),
        (b"anew", Ack(0, 4)),
    ]
    assert (table.counters.inserted_blocks, table.counters.duplicates) == (5, 3)


def test_what_a_dead_connection_left_behind_does_not_take_the_acknowledgements_with_it() -> None:
    """Inserts of the old connection and the same of the new one lie at the socket, and ZeroMQ
    hands over one of each in turn, the old one last."""
    table = make_table(samples_per_insert=1.0, tolerance=2.0)
    table.handle(b"other", insert(steps(2), session=9), 0.0)  # The limiter holds what comes now.
    for sequence in range(3):
        again = insert(steps(), session=1, sequence=sequence, oldest=0, connection=1)
        assert table.handle(b"new", again, 0.0) == []
        assert table.handle(b"old", replace(again, connection=0), 0.0) == []
    # One that the old connection alone brought is stored, too.
    assert table.handle(b"old", insert(steps(), session=1, sequence=3, oldest=0), 0.0) == []

    replies = table.handle(LEARNER, request(8), 0.0)

    acks = [reply for reply in replies if isinstance(reply[1], Ack)]
    assert acks == [(b"new", Ack(1, sequence)) for sequence in range(4)]


def test_who_was_sent_elsewhere_and_comes_back_has_a_window_of_its_own() -> None:
    """What it has given up is stored all the same, and acknowledged where nobody waits for it."""
    table = full_table_with_two_waiting()
    elsewhere = 7
    for sequence in (elsewhere, elsewhere + 1):
        message = insert(steps(), sequence=sequence, oldest=elsewhere)
        assert table.handle(b"back", message, 0.0) == []
    (reply,) = table.handle(b"back", insert(steps(), sequence=9, oldest=elsewhere), 0.0)
    assert isinstance(reply[1], Rejected)
    acks = []
    while table.counters.inserted_blocks < 7:
        replies = table.handle(LEARNER, request(), 0.0)
        acks += [reply for peer, reply in replies if peer == b"back"]
    assert acks == [Ack(0, sequence) for sequence in (3, 4, elsewhere, elsewhere + 1)]
    assert table.handle(b"back", insert(steps(), sequence=9, oldest=9), 0.0) == []


def test_what_was_given_up_takes_no_room_in_the_window_when_some_of_it_is_stored() -> None:
    table = full_table_with_two_waiting()
    assert table.handle(b"back", insert(steps(), sequence=7, oldest=7), 0.0) == []
    _, ack = table.handle(LEARNER, request(), 0.0)
    assert ack == (b"back", Ack(0, 3))
    assert table.handle(b"back", insert(steps(), sequence=8, oldest=7), 0.0) == []


def test_who_comes_and_goes_without_end_does_not_fill_the_line() -> None:
    table = full_table_with_two_waiting()
    sequences = range(5, 5 + 20)
    for sequence in sequences:
        table.handle(ACTOR, insert(steps(), sequence=sequence, oldest=sequence), 0.0)
    # One window of two was waiting already.
    assert rejected(table) == {Reason.WINDOW: 20 - 2 * (MAX_GIVEN_UP - 1)}


def test_an_insert_beyond_the_window_is_rejected_and_can_be_sent_again_later() -> None:
    table = full_table_with_two_waiting()

    (reply,) = table.handle(ACTOR, insert(steps(), sequence=5, oldest=3), 0.0)

    assert reply == (
        ACTOR,
        Rejected(0, 5, "more than 2 unacknowledged inserts: the window is full"),
    )
    assert rejected(table) == {Reason.WINDOW: 1}
    # Another session has a window of its own.
    assert table.handle(b"other", insert(steps(), session=1), 0.0) == []
    table.handle(LEARNER, request(2), 0.0)
    assert table.handle(ACTOR, insert(steps(), sequence=5), 0.0) == []
    replies = table.handle(LEARNER, request(2), 0.0)
    assert [reply for reply in replies if reply[0] != LEARNER] == [
        (b"other", Ack(1, 0)),
        (ACTOR, Ack(0, 5)),
    ]


@pytest.mark.parametrize("last", [0, 1], ids=["sent again", "a new one"])
def test_the_oldest_sessions_are_forgotten(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_server.sessions, "MAX_REMEMBERED_SESSIONS", 2)
    table = make_table()
    # Session 0 was heard of after session 1.
    for session, sequence in ((0, 0), (1, 0), (0, last), (2, 0)):
        table.handle(ACTOR, insert(steps(), session=session, sequence=sequence), 0.0)

    expected = table.counters.duplicates
    for session, sequence, is_known in ((0, last, True), (2, 0, True), (1, 0, False)):
        table.handle(ACTOR, insert(steps(), session=session, sequence=sequence), 0.0)
        expected += is_known
        assert table.counters.duplicates == expected


def test_a_session_that_waits_is_never_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_server.sessions, "MAX_REMEMBERED_SESSIONS", 1)
    table = make_table(samples_per_insert=1.0, min_size_to_sample=4, tolerance=4.0)
    for session in range(6):  # 0 … 2 are stored, the others wait.
        table.handle(ACTOR, insert(steps(), session=session), 0.0)
    assert table.counters.inserted_blocks == 3

    replies = table.handle(LEARNER, request(3), 0.0)

    acks = [reply for peer, reply in replies if peer == ACTOR]
    assert acks == [Ack(session, 0) for session in (3, 4, 5)]
