"""A run's metrics out of its members'."""

from typing import Any

import numpy as np
import pytest

import learner.run_metrics
from common.metric_table import METRICS, histogram, page
from learner.run_metrics import QUANTILES, RunMetrics

STEPS, UNDER_WAY, STEP_S = (
    "actor_env_steps_total",
    "actor_unacknowledged_inserts",
    "actor_step_seconds",
)
INSERTED, BLOCKS = "replay_inserted_transitions_total", "replay_inserted_blocks_total"


def observed(*values: float) -> Any:
    counted = histogram(STEP_S)
    for value in values:
        counted.observe(value)
    return {STEP_S: counted.read()}


def test_counters_are_summed_and_gauges_averaged_over_members() -> None:
    metrics = RunMetrics()
    metrics.add(1, {STEPS: 100.0, UNDER_WAY: 1.0}, {})
    metrics.add(2, {STEPS: 30.0, UNDER_WAY: 4.0}, {})
    metrics.add(1, {STEPS: 110.0, UNDER_WAY: 2.0}, {})
    assert metrics.values() == {STEPS: 140.0, UNDER_WAY: 3.0}


def test_of_several_replay_servers_there_are_all_transitions_and_the_oldest_flush() -> None:
    metrics = RunMetrics()
    size, fill, unflushed = "replay_transitions", "replay_fill", "replay_unflushed_seconds"
    metrics.add(1, {size: 1_000.0, fill: 1.0, unflushed: 3.0}, {})
    metrics.add(2, {size: 500.0, fill: 0.5, unflushed: 40.0}, {})
    assert metrics.values() == {size: 1_500.0, fill: 0.75, unflushed: 40.0}


def test_what_a_member_counted_stays_when_it_is_gone() -> None:
    metrics = RunMetrics()
    metrics.add(1, {STEPS: 100.0, UNDER_WAY: 1.0}, {})
    metrics.forget([1, 7])
    assert metrics.values() == {STEPS: 100.0}
    # Its successor has a session of its own.
    metrics.add(2, {STEPS: 5.0}, {})
    assert metrics.values() == {STEPS: 105.0}


def test_a_process_that_comes_back_goes_on_with_what_it_has_counted() -> None:
    metrics = RunMetrics()
    metrics.begin(1, token=7)
    metrics.add(1, {STEPS: 100.0, UNDER_WAY: 1.0}, observed(0.02))
    metrics.forget([1])
    metrics.begin(2, token=7)
    # What it holds now it has yet to tell.
    assert metrics.values() == {STEPS: 100.0}
    metrics.add(2, {STEPS: 130.0}, observed(0.02, 5.0))
    assert metrics.values() == {STEPS: 130.0}
    np.testing.assert_allclose(metrics.histograms[STEP_S], observed(0.02, 5.0)[STEP_S])


def test_what_a_process_had_counted_when_it_was_first_heard_of_is_told_apart() -> None:
    metrics = RunMetrics()
    metrics.begin(1, token=7)
    metrics.add(1, {STEPS: 100.0}, {})
    metrics.add(1, {STEPS: 130.0}, {})
    metrics.forget([1])
    # Known, and so not brought a second time.
    metrics.begin(2, token=7)
    metrics.add(2, {STEPS: 140.0}, {})
    metrics.begin(3, token=8)
    metrics.add(3, {STEPS: 3.0}, {})
    assert metrics.values() == {STEPS: 143.0}
    assert metrics.brought == {STEPS: 103.0}


def test_a_replay_server_goes_on_with_what_its_storage_has_kept_and_nothing_else() -> None:
    metrics = RunMetrics()
    for session, number, inserted in ((1, 0, 500_000.0), (2, 1, 300_000.0)):
        metrics.begin(session, token=session, storage=number)
        metrics.add(session, {INSERTED: inserted, BLOCKS: 10.0}, {})
    # One falls before it has told anything; another takes its place.
    for session in (3, 4):
        metrics.forget([1, 3])
        metrics.begin(session, token=session, storage=0)
    metrics.add(4, {INSERTED: 500_040.0, BLOCKS: 1.0}, {})
    assert metrics.values() == {INSERTED: 800_040.0, BLOCKS: 21.0}


def test_processes_that_are_gone_are_not_remembered_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learner.run_metrics, "MAX_GONE", 2)
    metrics = RunMetrics()
    for session in (1, 2, 3):
        metrics.begin(session, token=session)
        metrics.add(session, {STEPS: 100.0}, {})
        metrics.forget([session])
    for session in (1, 2, 3):
        metrics.begin(10 + session, token=session)
        metrics.add(10 + session, {STEPS: 100.0}, {})
    # The first that went counts as a new one.
    assert metrics.values() == {STEPS: 400.0}


def test_what_falls_back_takes_nothing_away() -> None:
    metrics = RunMetrics()
    for count in (10, 4, 6):
        metrics.add(1, {STEPS: float(count)}, observed(*[0.02] * count))
        metrics.record()
    assert metrics.values() == {STEPS: 12.0}
    np.testing.assert_allclose(metrics.histograms[STEP_S], observed(*[0.02] * 12)[STEP_S])


def test_a_record_has_the_quantiles_of_what_came_since_the_last_one() -> None:
    metrics = RunMetrics()
    metrics.add(1, {}, observed(*[0.02] * 98, 0.2, 0.2))
    first = metrics.record()
    assert 0.01 < first[f"{STEP_S}_p50"] < 0.025
    assert 0.1 < first[f"{STEP_S}_p99"] <= 0.25

    assert metrics.record() == {}

    metrics.add(1, {}, observed(*[0.02] * 98, 0.2, 0.2, *[2.0] * 50))
    assert 1.0 < metrics.record()[f"{STEP_S}_p50"] <= 2.5


def test_the_page_names_whatever_a_record_makes_of_a_histogram() -> None:
    metrics = RunMetrics()
    metrics.add(1, {}, observed(0.02))
    suffixes = {name.removeprefix(STEP_S) for name in metrics.record()}
    assert len(suffixes) == len(QUANTILES)
    for suffix in suffixes:
        assert f"`NAME{suffix}`" in page()


def test_histograms_of_several_members_and_of_gone_ones_add_up() -> None:
    metrics = RunMetrics()
    metrics.add(1, {}, observed(0.02))
    metrics.add(2, {}, observed(0.02, 5.0))
    metrics.forget([1])
    metrics.add(2, {}, observed(0.02, 5.0, 5.0))
    np.testing.assert_allclose(metrics.histograms[STEP_S], observed(0.02, 0.02, 5.0, 5.0)[STEP_S])


@pytest.mark.parametrize(
    ("values", "histograms"),
    [
        ({"unheard_of": 1.0}, {}),
        ({STEPS: float("nan")}, {}),
        ({STEPS: float("inf")}, {}),
        ({}, {"unheard_of": np.ones(3)}),
        ({}, {STEPS: np.ones(len(METRICS[STEP_S].bounds) + 2)}),
        ({}, {STEP_S: np.ones(3)}),
        ({}, {STEP_S: np.ones(len(METRICS[STEP_S].bounds) + 2, np.float32)}),
        ({}, {STEP_S: np.full(len(METRICS[STEP_S].bounds) + 2, np.nan)}),
        ({}, {STEP_S: np.full(len(METRICS[STEP_S].bounds) + 2, 1e300)}),
        ({}, {STEP_S: -np.ones(len(METRICS[STEP_S].bounds) + 2)}),
    ],
)
def test_what_is_not_declared_or_no_number_is_left_out(values: Any, histograms: Any) -> None:
    metrics = RunMetrics()
    metrics.add(1, values, histograms)
    assert metrics.record() == {}
    assert metrics.histograms == {}
