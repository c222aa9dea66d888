"""Curves and histograms as data for the charts."""

import json
from typing import Any

import pytest

from common.metric_table import METRICS
from deploy.dashboard import charts
from deploy.dashboard.charts import MAX_POINTS, Axis, curve, shares
from deploy.dashboard.ladder import Rung
from tests.unit.deploy.dashboard.views import view


def line(i: int, **values: Any) -> dict[str, Any]:
    return {"env_steps": 10 * i, "wall_s": float(i), **values}


def evaluation(i: int, mean: float, spread: float) -> dict[str, Any]:
    return line(i, evaluation={**line(i), "return_mean": mean, "return_std": spread})


def test_a_curve_stands_over_steps_or_over_time() -> None:
    lines = [line(1, loss=0.5), line(2), line(3, loss=0.25), line(4, loss=None)]
    assert curve(lines, "loss", Axis.ENV_STEPS) == [(10.0, 0.5), (30.0, 0.25)]
    assert curve(lines, "loss", Axis.WALL_CLOCK) == [(1.0, 0.5), (3.0, 0.25)]


def test_more_points_than_a_screen_shows_become_means_of_neighbours() -> None:
    lines = [line(i, loss=float(i)) for i in range(4 * MAX_POINTS)]
    points = curve(lines, "loss", Axis.WALL_CLOCK)
    assert len(points) == MAX_POINTS
    assert points[0] == (1.5, 1.5)  # (0 + 1 + 2 + 3) / 4
    assert points[-1][0] == 4 * MAX_POINTS - 2.5


def test_uneven_numbers_of_points_lose_none() -> None:
    lines = [line(i, loss=1.0) for i in range(MAX_POINTS + 7)]
    assert len(curve(lines, "loss", Axis.WALL_CLOCK)) == MAX_POINTS


def test_a_score_has_a_band_of_one_standard_deviation_and_a_target() -> None:
    found = charts.score(
        view(lines=[evaluation(1, 20.0, 5.0), evaluation(2, 30.0, 0.0), line(3)]),
        None,
        Axis.ENV_STEPS,
    )
    greedy, training, low, high = found["series"]
    assert greedy["data"] == [(10, 20.0), (20, 30.0)]
    assert greedy["markLine"]["data"] == [{"yAxis": 475.0}]
    assert training["data"] == []
    assert low["data"] == [(10, 15.0), (20, 30.0)]
    # Stacked on the lower edge: twice the deviation.
    assert high["data"] == [(10, 10.0), (20, 0.0)]
    assert low["stack"] == high["stack"]


def test_of_many_evaluations_the_newest_is_always_among_those_drawn() -> None:
    lines = [evaluation(i, float(i), 0.0) for i in range(2 * MAX_POINTS + 5)]
    drawn = charts.score(view(lines=lines), None, Axis.ENV_STEPS)["series"][0]["data"]
    assert len(drawn) <= MAX_POINTS
    assert drawn[-1] == (10 * (2 * MAX_POINTS + 4), 2 * MAX_POINTS + 4)


def test_a_second_run_is_drawn_beside_the_first() -> None:
    mine, theirs = view(lines=[line(1, learner_loss=1.0)]), view("b", lines=[])
    found = charts.column(mine, theirs, Axis.ENV_STEPS, "learner_loss")
    assert [s["name"] for s in found["series"]] == ["a", "b"]
    assert len(charts.score(mine, theirs, Axis.ENV_STEPS)["series"]) == 8


def test_the_ladder_leaves_out_what_has_earned_nothing_yet() -> None:
    found = charts.ladder([Rung(0, 0, 0.4, 12.0), Rung(0, 1, 0.01, None), Rung(1, None, 0.1, 3.0)])
    assert found["series"][0]["data"] == [
        {"value": [0.4, 12.0], "name": "actor 0, env 0"},
        {"value": [0.1, 3.0], "name": "actor 1"},
    ]
    assert found["xAxis"]["type"] == "log"
    # Without exploration there is no logarithm.
    assert charts.ladder([Rung(0, 0, 0.0, 1.0)])["xAxis"]["type"] == "value"


def test_a_histogram_shows_shares_of_its_ranges() -> None:
    counts = [0.0] * 10 + [9.0]
    counts[0], counts[9] = 3.0, 1.0
    found = charts.histogram("replay_sampled_age", counts, None)
    assert found["series"][0]["data"] == [75.0, *[0.0] * 8, 25.0]
    labels = found["xAxis"]["data"]
    assert labels[0] == "≤ 0.1"
    assert labels[-1] == "> 0.9"
    assert len(labels) == len(METRICS["replay_sampled_age"].bounds) + 1


@pytest.mark.parametrize("counts", [None, [], [1.0, 2.0], [0.0, 0.0, 0.0]])
def test_counts_that_are_none_show_nothing(counts: list[float] | None) -> None:
    assert shares(counts, 2) == []


def test_all_of_it_can_be_sent_to_a_browser() -> None:
    mine = view(lines=[evaluation(1, 20.0, 5.0), line(2, learner_loss=0.1)])
    for options in (
        charts.score(mine, mine, Axis.WALL_CLOCK),
        charts.column(mine, mine, Axis.WALL_CLOCK, "learner_loss"),
        charts.ladder([Rung(0, 0, 0.4, 12.0)]),
        charts.histogram("replay_new_priority", None, None),
    ):
        json.dumps(options, allow_nan=False)
