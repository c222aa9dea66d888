"""The order in which a table serves: credit, turns, and the rate limiter's band."""

from collections import deque
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.messages import Ack, Batch, Drawn, Message, SampleRequest
from replay_server.table import Table
from tests.experience import LAYOUT, TERMINATED, Kinds, insert, row_kinds, steps, transitions
from tests.unit.replay_server.tables import ACTOR, LEARNER, batches, make_table, request

# --------------------------------------------------------------------------------------- credit


def test_requests_wait_until_there_is_enough_and_learners_take_turns() -> None:
    table = make_table(min_size_to_sample=5)
    assert table.handle(b"a", request(3), 0.0) == []
    assert table.handle(b"b", request(1), 0.0) == []
    assert table.handle(b"c", request(2), 0.0) == []
    assert table.handle(ACTOR, insert(steps()), 0.0) == [(ACTOR, Ack(0, 0))]  # 4 of 5

    replies = table.handle(ACTOR, insert(steps(), sequence=1), 0.0)

    assert [peer for peer, _ in replies] == [ACTOR, *(b"a", b"b", b"c"), *(b"a", b"c"), b"a"]
    assert [batch.sampled for batch in batches(replies)] == [4, 8, 12, 16, 20, 24]


def test_no_more_is_served_and_stored_at_once_than_there_may_be() -> None:
    table = make_table(slots=64)
    table.handle(ACTOR, insert(steps()), 0.0)
    for peer, owed in ((b"a", request(3)), (b"b", SampleRequest(4, keys_only=True))):
        assert table.replies(peer, owed, 0.0) == []
    for sequence in range(1, 4):
        assert table.replies(ACTOR, insert(steps(), sequence=sequence), 0.0) == []

    def advanced(inserts: int, batches: int) -> list[object]:
        """Sequence numbers of what was stored; who got how many transitions."""
        replies = table.advance(inserts, batches)
        return [
            reply.sequence if isinstance(reply, Ack) else (peer, len(reply.key))  # type: ignore[attr-defined]
            for peer, reply in replies
        ]

    n = table._batch_size
    assert advanced(1, 0) == [1]
    # Keys go out whole.
    assert advanced(0, 2) == [(b"a", n), (b"b", 4 * n)]
    assert advanced(1, 1) == [(b"a", n), 2]
    assert advanced(0, 0) == []
    assert advanced(2, 2) == [(b"a", n), 3]
    assert advanced(1, 1) == []


@pytest.mark.parametrize(("keys_only", "answer"), [(True, Drawn), (False, Batch)])
def test_the_newest_request_says_in_which_form_everything_owed_comes(
    keys_only: bool, answer: type[Message]
) -> None:
    table = make_table()
    table.handle(LEARNER, SampleRequest(1, keys_only=not keys_only), 0.0)
    table.handle(LEARNER, SampleRequest(1, keys_only=keys_only), 0.0)

    _, *answers = table.handle(ACTOR, insert(steps()), 0.0)

    assert {type(reply) for _, reply in answers} == {answer}


def test_credit_adds_up_to_a_limit() -> None:
    table = make_table()
    for _ in range(3):
        table.handle(LEARNER, request(30), 0.0)

    assert len(batches(table.handle(ACTOR, insert(steps()), 0.0))) == 64


def test_a_request_without_batches_earns_none() -> None:
    table = make_table()
    table.handle(ACTOR, insert(steps()), 0.0)

    assert table.handle(LEARNER, request(0), 0.0) == []


def test_a_peer_that_is_gone_is_owed_nothing() -> None:
    table = make_table()
    table.handle(LEARNER, request(3), 0.0)
    table.handle(b"other", request(1), 0.0)
    table.forget(LEARNER)
    table.forget(b"nobody")

    replies = table.handle(ACTOR, insert(steps()), 0.0)

    assert [peer for peer, _ in replies] == [ACTOR, b"other"]


def test_requests_wait_while_no_stored_row_starts_a_transition() -> None:
    table = make_table(slots=1)
    table.handle(ACTOR, insert(steps()), 0.0)
    table.handle(ACTOR, insert([[TERMINATED] * LAYOUT.rows], sequence=1), 0.0)
    assert table.handle(LEARNER, request(), 0.0) == []

    replies = table.handle(ACTOR, insert(steps(), sequence=2), 0.0)

    assert [peer for peer, _ in replies] == [ACTOR, LEARNER]


# ------------------------------------------------------------------------------------- the limiter

messages = st.one_of(
    st.tuples(st.sampled_from([b"actor 0", b"actor 1"]), row_kinds(max_blocks=2)),
    st.tuples(st.sampled_from([b"learner 0", b"learner 1"]), st.integers(0, 8)),
)


@settings(max_examples=150)
@given(
    st.lists(messages, max_size=40),
    st.sampled_from([Fraction(1, 4), Fraction(1), Fraction(5, 2)]),
    st.integers(1, 12),
    st.integers(2, 12),
)
def test_in_any_interleaving_the_error_stays_in_its_band_and_never_do_both_sides_wait(
    messages: list[tuple[bytes, Kinds | int]],
    samples_per_insert: Fraction,
    min_size_to_sample: int,
    tolerance: int,
) -> None:
    table = make_table(
        samples_per_insert=float(samples_per_insert),
        min_size_to_sample=min_size_to_sample,
        tolerance=tolerance,
    )
    waiting: deque[tuple[bytes, Ack, int]] = deque()  # … and the transitions it brings
    owed = {b"learner 0": 0, b"learner 1": 0}
    inserts = samples = 0
    largest = 2 * LAYOUT.length * samples_per_insert
    for i, (peer, content) in enumerate(messages):
        if isinstance(content, int):
            owed[peer] = min(owed[peer] + content, 64)
            replies = table.handle(peer, request(content), 0.0)
        else:
            session = int(peer[-1:])
            message = insert(content, session=session, sequence=i)
            waiting.append((peer, Ack(session, i), len(transitions(message))))
            replies = table.handle(peer, message, 0.0)

        for to, reply in replies:
            if isinstance(reply, Batch):
                owed[to] -= 1
                samples += 4
                assert (reply.inserted, reply.sampled) == (inserts, samples)
            else:
                *expected, transitions_stored = waiting.popleft()
                assert [to, reply] == expected
                inserts += transitions_stored
            error = (inserts - min_size_to_sample) * samples_per_insert - samples
            if inserts < min_size_to_sample:
                assert samples == 0
            else:
                assert -tolerance <= error <= tolerance + largest
        assert not (waiting and any(owed.values())), "both sides wait"
        assert min(owed.values()) >= 0


def test_the_time_that_each_side_waits_is_added_up() -> None:
    table = make_table(samples_per_insert=1.0, min_size_to_sample=4, tolerance=4.0)
    table.handle(LEARNER, request(1), 10.0)  # waits for the first insert, 10 … 13
    table.account(12.0)
    table.handle(ACTOR, insert(steps(2)), 13.0)  # error 4 → 0 by the batch
    table.handle(ACTOR, insert(steps(2), sequence=1), 20.0)  # error 8
    table.handle(ACTOR, insert(steps(2), sequence=2), 30.0)  # waits for samples, 30 … 35
    table.handle(LEARNER, request(1), 35.0)
    table.account(99.0)

    assert table.counters.sample_blocked_s == 3.0
    assert table.counters.insert_blocked_s == 5.0


def test_what_only_waits_for_its_turn_is_no_time_that_a_side_waits() -> None:
    table = make_table()
    table.handle(ACTOR, insert(steps()), 1.0)
    table.replies(LEARNER, request(2), 1.0)
    table.replies(ACTOR, insert(steps(), sequence=1), 1.0)
    table.account(4.0)
    assert table.counters.sample_blocked_s == table.counters.insert_blocked_s == 0.0


def test_keys_of_several_batches_go_out_in_one_message_as_they_would_in_many() -> None:
    """The limiter lets three of four out; the last one goes when there is more experience."""

    def make() -> Table:
        table = make_table(slots=8, samples_per_insert=1.0, min_size_to_sample=4, tolerance=4.0)
        for sequence in range(3):
            table.handle(ACTOR, insert(steps(), sequence=sequence), 0.0)
        return table

    by_key, whole = make(), make()
    ((peer, drawn),) = by_key.handle(LEARNER, SampleRequest(4, keys_only=True), 0.0)
    batches = [reply for _, reply in whole.handle(LEARNER, request(4), 0.0)]
    ((_, rest),) = [
        reply
        for reply in by_key.handle(ACTOR, insert(steps(), sequence=3), 0.0)
        if reply[0] == LEARNER
    ]
    last = next(
        reply
        for to, reply in whole.handle(ACTOR, insert(steps(), sequence=3), 0.0)
        if to == LEARNER
    )

    assert peer == LEARNER
    assert isinstance(drawn, Drawn)
    assert isinstance(rest, Drawn)
    assert isinstance(last, Batch)
    assert len(batches) == 3
    for name in ("key", "probability"):
        expected = np.concatenate([getattr(batch, name) for batch in batches])
        assert getattr(drawn, name).tolist() == expected.tolist()
        assert getattr(rest, name).tolist() == getattr(last, name).tolist()
    for name in ("table_size", "inserted", "sampled", "mass"):
        assert getattr(drawn, name) == getattr(batches[-1], name)
        assert getattr(rest, name) == getattr(last, name)


def test_an_inserts_time_in_line_ends_with_the_turn_in_which_it_is_stored() -> None:
    table = make_table()
    in_line = next(h for h in table.histograms if h.metric.name == "replay_insert_seconds")
    table.replies(ACTOR, insert(steps()), 2.0)
    table.replies(ACTOR, insert(steps(), sequence=1), 5.0)
    assert len(list(table.advance())) == 2
    # 3 s of the first, none of the second.
    *counts, total_s = in_line.read()
    assert (sum(counts), counts[0], total_s) == (2, 1, 3.0)
