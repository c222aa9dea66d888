"""The pictures of one run hold its numbers: read back from what is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config import Config
from common.errors import RunDirectoryError
from deploy.history import History
from tests.written_runs import Line, evaluated, evaluation, line

pytest.importorskip("matplotlib", reason="the extra watch is not installed")

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from deploy.curves import (
    curve_figure,
    draw_run,
    standard_error,
    throughput_figure,
    time_unit,
)

CONFIG = Config(env="Cart-v0", seed=3, target_return=475.0, replay_capacity=4_000, block_length=64)
NAME = "Cart-v0, seed 3"
CAPACITY = 4_032
"""Whole blocks: 63 of 64."""
ACTORS_WAITED, LEARNER_WAITED = (
    "replay_insert_blocked_seconds_total",
    "learner_waited_seconds_total",
)
LEARNING = (
    line(2.0, 100, episode_returns=[10.0, 20.0]),
    evaluated(3.0, 200, 50.0, return_std=6.0, episodes=10),
    line(4.0, 300, episode_returns=[30.0]),
    evaluated(5.0, 400, 480.0, return_std=0.0),
    evaluated(6.0, 500, 470.0, return_std=5.0, episodes=1),
)
"""Training returns: means of 10 and 20, then of 10, 20 and 30."""


def of_lines(*lines: Line, config: Config | None = CONFIG, **result: Any) -> History:
    return History(Path("runs/a"), config, list(lines), result or None)


def drawn(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    """x and y of the line with that label."""
    (found,) = [x for x in axes.lines if str(x.get_label()).startswith(label)]
    return np.asarray(found.get_xdata()).tolist(), np.asarray(found.get_ydata()).tolist()


def band(axes: Axes) -> dict[float, tuple[float, float]]:
    """Lowest and highest of the shaded area by x."""
    (area,) = [c for c in axes.collections if isinstance(c, PolyCollection)]
    bounds: dict[float, tuple[float, float]] = {}
    for path in area.get_paths():
        for x, y in path.vertices.tolist():
            low, high = bounds.get(x, (y, y))
            bounds[x] = min(low, y), max(high, y)
    return bounds


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def panels(figure: Figure, count: int) -> list[Axes]:
    """All of them, once drawn, so that their ticks are what would be seen."""
    figure.draw_without_rendering()
    assert len(figure.axes) == count
    return figure.axes


# -------------------------------------------------------------------------------------------- curve


def test_scores_and_training_returns_are_drawn_over_steps_and_over_time() -> None:
    over_steps, over_time = panels(curve_figure(of_lines(*LEARNING)), 2)
    assert over_steps.get_xlabel() == "environment steps"
    assert over_time.get_xlabel() == "wall time (s)"
    assert drawn(over_steps, "greedy score") == ([200, 400, 500], [50.0, 480.0, 470.0])
    assert drawn(over_time, "greedy score") == ([3.0, 5.0, 6.0], [50.0, 480.0, 470.0])
    assert drawn(over_steps, "training return") == ([100, 300], [15.0, 20.0])
    assert drawn(over_time, "training return") == ([2.0, 4.0], [15.0, 20.0])


def test_the_band_is_95_percent_of_the_means_standard_error() -> None:
    # Ten episodes of standard deviation 6 around their own mean: 6 / √(10 − 1) = 2.
    for axes in panels(curve_figure(of_lines(*LEARNING)), 2):
        first, second = sorted(band(axes).items())
        assert first[1] == pytest.approx((50.0 - 1.96 * 2.0, 50.0 + 1.96 * 2.0))
        assert second[1] == (480.0, 480.0)
        # One episode alone has no error that is known.


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"return_std": 6.0, "episodes": 10}, 2.0),
        ({"return_std": 0.0, "episodes": 20}, 0.0),
        ({"return_std": 6.0, "episodes": 1}, None),
        ({"return_std": 6.0}, None),
        ({"episodes": 10}, None),
    ],
)
def test_standard_errors(facts: Line, expected: float | None) -> None:
    error = standard_error(facts)
    assert np.isnan(error) if expected is None else error == pytest.approx(expected)


def test_the_standard_error_is_that_of_the_sample() -> None:
    returns = np.random.default_rng(0).normal(size=20)
    facts = {"return_std": float(returns.std()), "episodes": 20}
    assert standard_error(facts) == pytest.approx(returns.std(ddof=1) / np.sqrt(20))


def test_the_target_and_the_best_evaluation_are_marked() -> None:
    figure = curve_figure(of_lines(*LEARNING))
    for axes, x in zip(panels(figure, 2), (400, 5.0), strict=True):
        assert drawn(axes, "target 475")[1] == [475.0, 475.0]
        assert drawn(axes, "best: 480.0") == ([x], [480.0])
    assert legend(figure) == [
        "training return, newest 100 episodes",
        "greedy score",
        "95% confidence of its mean",
        "best: 480.0",
        "target 475",
    ]


def test_without_a_target_there_is_no_line_for_it() -> None:
    config = CONFIG.model_copy(update={"target_return": None})
    figure = curve_figure(of_lines(*LEARNING, config=config))
    assert not any("target" in label for label in legend(figure))


@pytest.mark.parametrize(
    ("history", "title"),
    [
        (
            of_lines(*LEARNING, solved=True),
            "Cart-v0, seed 3: solved, 500 environment steps in 6.0 s",
        ),
        (
            of_lines(line(600.0, 1_234_567)),
            "Cart-v0, seed 3: 1,234,567 environment steps in 10.0 min",
        ),
        (of_lines(), "Cart-v0, seed 3"),
        (of_lines(*LEARNING, config=None), "a: 500 environment steps in 6.0 s"),
    ],
    ids=["solved", "going on", "not begun", "unknown configuration"],
)
def test_titles_say_which_run_it_is_and_how_far_it_has_come(history: History, title: str) -> None:
    for figure in (curve_figure(history), throughput_figure(history)):
        assert figure.get_suptitle() == title


def test_training_returns_of_many_episodes_are_smoothed_over_a_hundredth_of_them() -> None:
    lines = [line(float(i), 10 * i, episode_returns=[float(i)] * 100) for i in range(300)]
    figure = curve_figure(of_lines(*lines))
    for axes in panels(figure, 2):
        _, y = drawn(axes, "training return, newest 300 episodes")
        assert y == [0.0, 0.5, *(i - 1.0 for i in range(2, 300))]


def test_many_evaluations_are_a_line_without_markers() -> None:
    for count, marker in ((100, "o"), (101, "")):
        lines = (evaluated(float(i), 10 * i, 1.0) for i in range(count))
        for axes in panels(curve_figure(of_lines(*lines)), 2):
            (score,) = [x for x in axes.lines if x.get_label() == "greedy score"]
            assert score.get_marker() == marker


def test_a_run_of_an_older_version_has_the_scores_of_its_result() -> None:
    told = [evaluation(60.0, 1_000, 20.0), evaluation(600.0, 9_000, 30.0)]
    history = of_lines(evaluations=told)
    over_steps, over_time = panels(curve_figure(history), 2)
    assert drawn(over_steps, "greedy score") == ([1_000, 9_000], [20.0, 30.0])
    # Ten minutes read better than 600 seconds.
    assert over_time.get_xlabel() == "wall time (min)"
    assert drawn(over_time, "greedy score") == ([1.0, 10.0], [20.0, 30.0])
    for axes in panels(throughput_figure(history), 4):
        assert texts(axes) == ["not recorded"]


@pytest.mark.parametrize("lines", [(), (line(1.0, 10),), (line(1.0, 10), line(1.0, 10))])
@pytest.mark.parametrize("config", [CONFIG, None])
def test_a_run_without_episodes_says_so(lines: Sequence[Line], config: Config | None) -> None:
    for axes in panels(curve_figure(of_lines(*lines, config=config)), 2):
        assert texts(axes) == ["no episode has ended yet"]


def test_numbers_are_grouped_by_thousands() -> None:
    lines = (evaluated(10.0, 0, -20_000.0), evaluated(20.0, 3_000_000, -1_000.0))
    over_steps, _ = panels(curve_figure(of_lines(*lines)), 2)
    assert "1,000,000" in [tick.get_text() for tick in over_steps.get_xticklabels()]
    assert "−20,000" in [tick.get_text() for tick in over_steps.get_yticklabels()]


@pytest.mark.parametrize(
    ("span_s", "unit"),
    [(0.0, "s"), (179.0, "s"), (180.0, "min"), (10_799.0, "min"), (10_800.0, "h"), (3e5, "d")],
)
def test_times_have_the_unit_that_they_read_well_in(span_s: float, unit: str) -> None:
    assert time_unit(span_s)[1] == unit


# --------------------------------------------------------------------------------------- throughput


def test_rates_fill_and_waiting_are_drawn_over_time() -> None:
    history = of_lines(
        line(1.0, 0, 0, replay_transitions=0, **{ACTORS_WAITED: 0.0, LEARNER_WAITED: 0.5}),
        line(3.0, 4_000, 10, replay_transitions=1_008, **{ACTORS_WAITED: 0.5, LEARNER_WAITED: 0.5}),
        line(
            4.0, 5_000, 40, replay_transitions=CAPACITY, **{ACTORS_WAITED: 0.6, LEARNER_WAITED: 1.3}
        ),
    )
    steps, updates, fill, waiting = panels(throughput_figure(history), 4)
    assert drawn(steps, "") == ([3.0, 4.0], [2_000.0, 1_000.0])
    assert drawn(updates, "") == ([3.0, 4.0], [5.0, 30.0])
    assert drawn(fill, "") == ([1.0, 3.0, 4.0], [0.0, 0.25, 1.0])
    assert drawn(waiting, "actors") == ([3.0, 4.0], [0.25, pytest.approx(0.1)])
    assert drawn(waiting, "learner") == ([3.0, 4.0], [0.0, pytest.approx(0.8)])
    assert fill.get_title(loc="left") == "replay fill, of 4,032 transitions"
    assert [tick.get_text() for tick in fill.get_yticklabels()][-2:-1] == ["100%"]


def test_nobody_waits_more_than_all_the_time() -> None:
    # A new replay server has begun at zero, and told of 3 s in the one since the last line.
    history = of_lines(line(1.0, 0, **{ACTORS_WAITED: 9.0}), line(2.0, 10, **{ACTORS_WAITED: 3.0}))
    *_, waiting = panels(throughput_figure(history), 4)
    assert drawn(waiting, "actors") == ([2.0], [1.0])


def test_actors_of_several_replay_servers_wait_as_long_as_those_of_one() -> None:
    config = CONFIG.model_copy(update={"replay_servers": 2})
    # Of a second, the inserts of one server waited 0.2 s, those of the other 0.6 s.
    before, after = {ACTORS_WAITED: 3.0}, {ACTORS_WAITED: 3.8}
    history = of_lines(line(1.0, 0, **before), line(2.0, 10, **after), config=config)
    *_, waiting = panels(throughput_figure(history), 4)
    assert drawn(waiting, "actors") == ([2.0], [pytest.approx(0.4)])


def test_waiting_ends_when_the_replay_server_leaves() -> None:
    history = of_lines(
        line(1.0, 0, replay_transitions=1, **{ACTORS_WAITED: 0.0}),
        line(2.0, 10, replay_transitions=2, **{ACTORS_WAITED: 0.5}),
        line(3.0, 20, **{ACTORS_WAITED: 0.5}),
    )
    steps, *_, waiting = panels(throughput_figure(history), 4)
    assert drawn(steps, "")[0] == [2.0, 3.0]
    assert drawn(waiting, "actors") == ([2.0], [0.5])


def test_a_replay_of_unknown_capacity_is_drawn_in_transitions() -> None:
    history = of_lines(line(1.0, 0, replay_transitions=1_500), config=None)
    _, _, fill, _ = panels(throughput_figure(history), 4)
    assert drawn(fill, "") == ([1.0], [1_500.0])
    assert fill.get_title(loc="left") == "replay fill, in transitions"


def test_what_was_not_recorded_is_said_and_the_rest_is_drawn() -> None:
    steps, updates, fill, waiting = panels(
        throughput_figure(of_lines(line(1.0, 0), line(2.0, 9))), 4
    )
    assert drawn(steps, "") == ([2.0], [9.0])
    assert drawn(updates, "") == ([2.0], [0.0])
    assert texts(fill) == texts(waiting) == ["not recorded"]


def test_a_long_runs_rates_are_means_over_a_two_hundredth_of_it() -> None:
    history = of_lines(*(line(float(i), 100 * i * i) for i in range(2_001)))
    steps, *_ = panels(throughput_figure(history), 4)
    x, y = drawn(steps, "")
    # Wall time is given in minutes: 2,000 s are more than three of them.
    assert np.diff(x).tolist() == pytest.approx([10.0 / 60.0] * 199)
    # 100 (i² − (i − 10)²) / 10 with i = 10, 20, …
    assert y == pytest.approx([200.0 * i - 1_000.0 for i in range(10, 2_001, 10)])


# -------------------------------------------------------------------------------------------- files


def test_both_pictures_lie_in_the_runs_directory(tmp_path: Path) -> None:
    paths = draw_run(History(tmp_path, CONFIG, list(LEARNING), None))
    assert paths == [tmp_path / "curve.png", tmp_path / "throughput.png"]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_directory_that_cannot_be_written_is_named() -> None:
    with pytest.raises(RunDirectoryError, match=r"cannot write runs.nowhere.curve.png \(No such"):
        draw_run(History(Path("runs/nowhere"), CONFIG, list(LEARNING), None))
