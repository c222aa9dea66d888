"""Histograms against numpy, and the table of all metrics against its own rules and its page."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metric_table import METRICS, histogram, page
from common.metrics import ROLES, Histogram, Kind, Metric, Telemetry, quantile

BOUNDS = (0.5, 1.0, 2.0, 8.0)
METRIC = Metric("actor_step_seconds", Kind.HISTOGRAM, "s", "", "", "", BOUNDS)
values = st.lists(st.floats(0.0, 100.0), max_size=200)


@given(values)
def test_values_are_counted_in_the_range_whose_bound_they_do_not_exceed(seen: list[float]) -> None:
    one_by_one, at_once = Histogram(METRIC), Histogram(METRIC)
    for value in seen:
        one_by_one.observe(value)
    at_once.observe_all(np.array(seen))

    read = one_by_one.read()

    below = [sum(value <= bound for value in seen) for bound in (*BOUNDS, math.inf)]
    assert np.cumsum(read[:-1]).tolist() == below
    assert read[-1] == pytest.approx(sum(seen))
    np.testing.assert_allclose(at_once.read(), read)


def test_a_bound_belongs_to_the_range_below_it() -> None:
    counted = Histogram(METRIC)
    for bound in BOUNDS:
        counted.observe(bound)
    assert counted.read().tolist() == [1, 1, 1, 1, 0, 11.5]


@given(st.lists(st.floats(0.0, 8.0), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_range_of_the_true_one(seen: list[float], q: float) -> None:
    counted = Histogram(METRIC)
    counted.observe_all(np.array(seen))

    found = quantile(METRIC, counted.read()[:-1].tolist(), q)

    true = np.quantile(seen, q, method="inverted_cdf")
    edges = [0.0, *BOUNDS]
    place = np.searchsorted(BOUNDS, true)
    assert found is not None
    assert edges[place] <= found <= edges[place + 1]


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        # 10 values between 0.5 and 1: the fifth of them is in the middle.
        ([0, 10, 0, 0, 0], 0.5, 0.75),
        ([0, 10, 0, 0, 0], 1.0, 1.0),
        # 30 of 40 up to 0.5; the 36th of all is the 6th of 10 between 1 and 2.
        ([30, 0, 10, 0, 0], 0.9, 1.6),
        ([0, 0, 0, 0, 7], 0.5, 8.0),
        ([0, 0, 0, 0, 0], 0.5, None),
    ],
)
def test_quantiles_by_hand(counts: list[float], q: float, expected: float | None) -> None:
    assert quantile(METRIC, counts, q) == (expected and pytest.approx(expected))


def test_a_snapshot_is_what_the_owner_has_now_and_stays() -> None:
    steps = {"actor_env_steps_total": 1.0}
    counted = Histogram(METRIC)
    telemetry = Telemetry(lambda: dict(steps), [counted])
    assert telemetry.newest == ({}, {})

    counted.observe(0.1)
    telemetry.snapshot()
    counted.observe(0.1)
    steps["actor_env_steps_total"] = 2.0

    then, histograms = telemetry.newest
    assert then == {"actor_env_steps_total": 1.0}
    assert histograms["actor_step_seconds"][0] == 1.0


# --------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_keeps_to_the_rules(metric: Metric) -> None:
    assert metric.role in ROLES
    assert metric.name.islower()
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert metric.unit
    assert metric.meaning
    assert metric.healthy
    assert metric.remedy
    assert bool(metric.bounds) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.bounds) == sorted(set(metric.bounds))
    # As Prometheus wants it.
    if metric.unit == "s":
        assert "_seconds" in metric.name


@pytest.mark.parametrize("name", [n for n, m in METRICS.items() if m.kind is Kind.HISTOGRAM])
def test_a_declared_histogram_begins_empty(name: str) -> None:
    assert not histogram(name).read().any()


def test_the_page_is_that_of_the_table() -> None:
    written = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert written.read_text() == page()
