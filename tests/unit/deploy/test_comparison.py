"""Which runs are one curve, and what they say together: hand-worked numbers, and slow counts."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config import Config
from deploy.history import History

pytest.importorskip("scipy", reason="the extra watch is not installed")

from deploy import comparison

MEAN, IQM = "mean", "iqm"
Curve = tuple[Sequence[float], Sequence[float]]


def aggregate(curves: Sequence[Curve], statistic: str = MEAN, points: int = 5) -> Any:
    arrays = [(np.array(x, float), np.array(y, float)) for x, y in curves]
    return comparison.aggregate(arrays, statistic, points)


def flat(*scores: float) -> list[Curve]:
    """Runs whose score is the same at both of their evaluations."""
    return [([0.0, 1.0], [score, score]) for score in scores]


# --------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("scores", "statistic", "expected"),
    [
        ([1.0, 2.0, 6.0], MEAN, 3.0),
        # A quarter of 4 is one run at each end, of 8 two, of 5 one and of 3 none.
        ([1.0, 2.0, 4.0, 100.0], IQM, 3.0),
        ([8.0, -50.0, 3.0, 4.0, 5.0, 6.0, 90.0, 0.0], IQM, 4.5),
        ([9.0, 1.0, 4.0, 2.0, 6.0], IQM, 4.0),
        ([1.0, 2.0, 6.0], IQM, 3.0),
        ([7.0], IQM, 7.0),
    ],
)
def test_statistics_agree_with_numbers_worked_by_hand(
    scores: list[float], statistic: str, expected: float
) -> None:
    assert aggregate(flat(*scores), statistic).centre == pytest.approx([expected] * 5)


def test_scores_are_interpolated_between_evaluations_and_never_continued() -> None:
    #            0    1    2    3    4
    # first      0   10   20    -    -      ends at 2
    # second     -   10   30   20   10      begins at 1
    first, second = ([0.0, 2.0], [0.0, 20.0]), ([1.0, 2.0, 4.0], [10.0, 30.0, 10.0])
    drawn = aggregate([first, second])
    assert drawn.x.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert drawn.centre.tolist() == [0.0, 10.0, 25.0, 20.0, 10.0]
    assert drawn.runs.tolist() == [1, 2, 2, 1, 1]
    # One run alone says nothing about others.
    assert np.isnan(drawn.low).tolist() == [True, False, False, True, True]
    assert np.isnan(drawn.high).tolist() == [True, False, False, True, True]


def test_where_no_run_is_there_is_nothing() -> None:
    drawn = aggregate([([0.0, 1.0], [5.0, 5.0]), ([3.0, 4.0], [7.0, 7.0])])
    assert drawn.runs.tolist() == [1, 1, 0, 1, 1]
    assert drawn.centre[[0, 1, 3, 4]].tolist() == [5.0, 5.0, 7.0, 7.0]
    assert np.isnan(drawn.centre[2])


def test_runs_with_one_evaluation_at_one_place_are_one_point() -> None:
    drawn = aggregate([([2.0], [1.0]), ([2.0], [5.0])])
    assert (drawn.x.tolist(), drawn.centre.tolist(), drawn.runs.tolist()) == ([2.0], [3.0], [2])


def slow_statistic(scores: Sequence[float], statistic: str) -> float:
    cut = len(scores) // 4 if statistic == IQM else 0
    kept = sorted(scores)[cut : len(scores) - cut]
    return sum(kept) / len(kept)


def slow_score(curve: Curve, x: float) -> float | None:
    """Of a run at x, by the straight line between the evaluations around it."""
    for (x0, y0), (x1, y1) in itertools.pairwise(zip(*curve, strict=True)):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return None


@pytest.mark.parametrize("statistic", [MEAN, IQM])
def test_curves_agree_with_a_slow_count(statistic: str) -> None:
    rng = np.random.default_rng(3)
    curves: list[Curve] = []
    for _ in range(9):
        count = int(rng.integers(2, 12))
        x = np.cumsum(rng.uniform(0.5, 2.0, count))
        curves.append((x.tolist(), rng.normal(size=count).tolist()))
    drawn = aggregate(curves, statistic, points=40)
    # The ends themselves are there by rounding only.
    for x, centre, runs in list(zip(drawn.x, drawn.centre, drawn.runs, strict=True))[1:-1]:
        there = [s for s in (slow_score(curve, x) for curve in curves) if s is not None]
        assert runs == len(there)
        assert centre == pytest.approx(slow_statistic(there, statistic))


@pytest.mark.parametrize("statistic", [MEAN, IQM])
@pytest.mark.parametrize("scores", [[0.0, 1.0, 5.0], [3.0, -1.0, 4.0, 1.0, 5.0]])
def test_bands_agree_with_all_resamples_there_are(scores: list[float], statistic: str) -> None:
    # With 3 runs there are 27 ways to draw 3 of them with replacement, with 5 there are 3125.
    every = [slow_statistic(s, statistic) for s in itertools.product(scores, repeat=len(scores))]
    drawn = aggregate(flat(*scores), statistic)
    for bound, share in ((drawn.low, 0.025), (drawn.high, 0.975)):
        assert np.ptp(bound) == 0.0
        # 2,000 draws find the share itself within three standard errors of 0.35%.
        shares = [share - 0.0105, share + 0.0105]
        around = np.quantile(every, shares, method="inverted_cdf")
        assert around[0] <= bound[0] <= around[1]


def test_runs_are_resampled_as_whole_curves() -> None:
    # Of one another's mirror image: any two curves of a resample cancel or double at both ends.
    up, down = ([0.0, 1.0], [-1.0, 1.0]), ([0.0, 1.0], [1.0, -1.0])
    drawn = aggregate([up, down, up, down])
    assert drawn.low.tolist() == pytest.approx((-drawn.high[::-1]).tolist())
    assert drawn.low[2] == drawn.high[2] == 0.0


def test_runs_that_agree_have_a_band_without_width() -> None:
    for statistic in (MEAN, IQM):
        drawn = aggregate(flat(*[500.0] * 5), statistic)
        assert (drawn.low == 500.0).all()
        assert (drawn.high == 500.0).all()


def test_the_same_runs_always_have_the_same_band() -> None:
    scores = np.random.default_rng(0).normal(size=6).tolist()
    assert aggregate(flat(*scores)).low.tolist() == aggregate(flat(*scores)).low.tolist()


# ------------------------------------------------------------------------------------------ groups


def history(name: str, config: Config | None) -> History:
    return History(Path("runs") / name, config, [], None)


def grouped(configs: Sequence[Config | None], keys: Sequence[str] = ()) -> dict[str, list[str]]:
    """Names of the runs by label."""
    histories = [history(f"r{i}", config) for i, config in enumerate(configs)]
    return {g.label: [h.name for h in g.histories] for g in comparison.group_runs(histories, keys)}


def test_runs_that_differ_in_their_seed_alone_are_one_curve() -> None:
    assert grouped([Config(seed=i) for i in range(3)]) == {
        "CartPole-v1 (3 runs)": ["r0", "r1", "r2"]
    }


def test_labels_say_what_differs_between_groups_and_nothing_else() -> None:
    configs = [Config(batch_size=b, seed=s, n_step=2) for s in (0, 1) for b in (256, 512)]
    assert grouped(configs) == {
        "batch_size=256 (2 runs)": ["r0", "r2"],
        "batch_size=512 (2 runs)": ["r1", "r3"],
    }
    assert list(
        grouped(
            [
                Config(learning_rate=1e-3),
                Config(learning_rate=3e-4, dueling=False, hidden_sizes=(64, 64)),
            ]
        )
    ) == [
        "hidden_sizes=[128, 128], dueling=true, learning_rate=0.001",
        "hidden_sizes=[64, 64], dueling=false, learning_rate=0.0003",
    ]


def test_where_much_differs_labels_say_as_little_as_tells_them_apart() -> None:
    one = {"env": "A-v0", "batch_size": 64, "n_step": 1, "discount": 0.9}
    two = {"env": "B-v0", "batch_size": 128, "n_step": 2, "discount": 0.8}
    assert list(grouped([Config(**one), Config(**two)])) == ["env=A-v0", "env=B-v0"]
    three = {**two, "batch_size": 64}
    assert list(grouped([Config(**c) for c in (one, two, three)])) == [
        "env=A-v0, batch_size=64", "env=B-v0, batch_size=128", "env=B-v0, batch_size=64",
    ]  # fmt: skip


def test_runs_can_be_put_together_by_chosen_keys() -> None:
    configs = [Config(batch_size=b, n_step=n) for b in (256, 512) for n in (1, 3)]
    assert grouped(configs, ["n_step"]) == {
        "n_step=1 (2 runs)": ["r0", "r2"],
        "n_step=3 (2 runs)": ["r1", "r3"],
    }
    assert len(grouped(configs, ["n_step", "batch_size"])) == 4
    assert grouped(configs, ["env"]) == {"CartPole-v1 (4 runs)": ["r0", "r1", "r2", "r3"]}


def test_a_run_of_unknown_configuration_is_alone_under_its_own_name() -> None:
    assert grouped([Config(seed=0), None, Config(seed=1), None]) == {
        "CartPole-v1 (2 runs)": ["r0", "r2"],
        "runs/r1": ["r1"],
        "runs/r3": ["r3"],
    }
