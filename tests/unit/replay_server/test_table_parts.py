"""Parts of batches: what a learner with several replay servers asks each of them for."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.messages import Ack, Batch, Drawn, PartRequest, Rejected
from replay_server.table import OBSERVED_PERIOD_S, Table
from tests.experience import insert, steps
from tests.unit.replay_server.tables import ACTOR, LEARNER, make_table, part, power_law


def stored_table(blocks: int = 2, **options: Any) -> Table:
    table = make_table(**options)
    for sequence in range(blocks):
        table.handle(ACTOR, insert(steps(), sequence=sequence), 0.0)
    return table


@pytest.mark.parametrize("rows", [1, 3, 4])
@pytest.mark.parametrize("keys_only", [False, True])
def test_a_part_has_as_many_rows_as_asked_for(rows: int, keys_only: bool) -> None:
    table = stored_table()
    [(peer, answer)] = table.handle(LEARNER, part(rows, number=9, keys_only=keys_only), 0.0)
    assert peer == LEARNER
    assert isinstance(answer, Drawn if keys_only else Batch)
    assert (len(answer.key), answer.request) == (rows, 9)
    assert (answer.table_size, answer.inserted) == (8, 8)


def test_probabilities_are_relative_to_the_mass_that_is_told() -> None:
    table = stored_table()
    [(_, answer)] = table.handle(LEARNER, part(4), 0.0)
    assert isinstance(answer, Batch)
    priority = {
        int(key): float(p)
        for key, p in zip(
            (table.storage.number[1:3, None] * 4 + np.arange(4)).ravel(),
            table.storage.priority[1:3].ravel(),
            strict=True,
        )
    }
    expected = power_law(priority)
    for key, probability in zip(answer.key.tolist(), answer.probability.tolist(), strict=True):
        assert probability == pytest.approx(expected[key], rel=1e-5)
    assert answer.mass == pytest.approx(sum((p + 1e-6) ** 0.6 for p in priority.values()), rel=1e-5)


def test_without_priorities_the_mass_is_the_size() -> None:
    [(_, answer)] = stored_table(prioritized=False).handle(LEARNER, part(2), 0.0)
    assert isinstance(answer, Batch)
    assert answer.mass == answer.table_size == 8


def test_the_limiter_counts_what_it_is_told_to_and_lets_actors_go_on() -> None:
    # 4 samples for each insert, from the first on: 8 inserts may run 12 samples ahead of none.
    table = stored_table(3, samples_per_insert=4.0, tolerance=12.0)
    assert (table.limiter.inserts, table.limiter.error) == (8, 28.0)
    [(_, answer)] = table.handle(LEARNER, part(4, counted=0), 0.0)
    assert isinstance(answer, Batch)
    assert (answer.sampled, table.limiter.inserts) == (0, 8)
    for counted in range(4, 17, 4):
        first, *others = table.handle(LEARNER, part(0, counted=4), 0.0)
        assert isinstance(first[1], Drawn)
        assert first[1].sampled == counted
    # 28 − 16 = 12: the third insert is let in.
    assert others == [(ACTOR, Ack(0, 2))]


def test_an_empty_table_answers_at_once_with_nothing() -> None:
    table = make_table()
    [(_, answer)] = table.handle(LEARNER, part(3, number=2), 0.0)
    assert isinstance(answer, Drawn)
    assert (len(answer.key), answer.table_size, answer.mass, answer.request) == (0, 0, 0.0, 2)


def test_priorities_ride_on_a_question_without_rows() -> None:
    table = stored_table()
    asked = replace(part(0), key=np.array([4, 5]), priority=np.array([7.0, 9.0], np.float32))
    [(_, answer)] = table.handle(LEARNER, asked, 0.0)
    assert isinstance(answer, Drawn)
    assert table.storage.priority[1, :2].tolist() == [7.0, 9.0]


@pytest.mark.parametrize(
    "refused",
    [
        part(-1),
        part(5),
        part(1, counted=-1),
        part(1, counted=5),
        PartRequest(1, 1, 0, np.array([4]), np.array([1.0, 2.0], np.float32)),
        PartRequest(1, 1, 0, np.array([4]), np.array([np.nan], np.float32)),
        PartRequest(1, 1, 0, np.array([4]), np.array([-1.0], np.float32)),
    ],
)
def test_what_no_learner_asks_for_is_rejected_and_changes_nothing(refused: PartRequest) -> None:
    table = stored_table()
    before = table.storage.priority.copy()
    [(_, answer)] = table.handle(LEARNER, refused, 0.0)
    assert isinstance(answer, Rejected)
    assert "part_request" in answer.reason
    assert (table.storage.priority == before).all()
    assert table.limiter.samples == 0


def test_an_age_is_how_much_of_the_replay_was_written_since() -> None:
    table = stored_table(3, slots=4)
    [(_, answer)] = table.handle(LEARNER, part(4), 1.0)
    assert isinstance(answer, Batch)
    (ages,) = (h for h in table.histograms if h.metric.name == "replay_sampled_age")
    # Block 3 is the newest.
    assert ages.read()[-1] == (3 - answer.key // 4).sum() / 4


def test_of_what_comes_within_a_moment_one_batch_is_in_the_histograms() -> None:
    """Requests without rows, of which there may be as many, are no batches."""
    table, moment_s = stored_table(), OBSERVED_PERIOD_S
    ages, priorities = (
        next(h for h in table.histograms if h.metric.name == name)
        for name in ("replay_sampled_age", "replay_new_priority")
    )
    for now_s in (1.0, 1.0 + moment_s / 2, 1.1 + moment_s, 1.1 + 1.5 * moment_s):
        table.handle(LEARNER, part(0), now_s)
        [(_, answer)] = table.handle(LEARNER, part(4), now_s)
        assert isinstance(answer, Batch)
        back = replace(part(0), key=answer.key, priority=np.ones(4, np.float32))
        table.handle(LEARNER, back, now_s)
    assert ages.read()[:-1].sum() == priorities.read()[:-1].sum() == 2 * 4
    assert priorities.read()[-1] == 8.0
