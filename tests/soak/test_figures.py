"""What is made of a soak: who is killed, whether scores fell, which promises are broken."""

import random
from itertools import islice
from pathlib import Path

import pytest

from tests.soak.audit import Findings
from tests.soak.kills import Toll, schedule
from tests.soak.report import Row, rows_of, table
from tests.soak.resources import Use
from tests.soak.scores import Forgetting, forgetting, scores_of


def test_each_role_is_killed_as_often_as_the_others_and_actors_take_turns() -> None:
    names = ["learner", "actor-0", "actor-1"]
    killed = list(islice(schedule(names, random.Random(3)), 40))
    assert killed.count("learner") == 20
    assert killed.count("actor-0") == killed.count("actor-1") == 10


def kept(kills: int, change: float) -> Forgetting | None:
    """Ten evaluations between kills, of 100 and 102 in turn; after each kill `change` more."""
    scores, now_s = [], 0.0
    for part in range(kills + 1):
        for i in range(10):
            now_s += 1
            scores.append((now_s, 100.0 + 2 * (i % 2) + (change + part if i < 3 else 0)))
        now_s += 1
    return forgetting(scores, [11.0 * (k + 1) for k in range(kills)])


def test_scores_that_fall_at_each_kill_are_forgetting() -> None:
    # Before a kill 102, 100, 102: on average 101⅓. After it 100, 102, 100 and what is added.
    found = kept(kills=6, change=-50.0)
    assert found is not None
    assert found.before == pytest.approx(304 / 3)
    # Parts 1 … 6: 100⅔ − 50 + 3.5.
    assert found.after == pytest.approx(302 / 3 - 46.5)
    # Differences −46.2 ± 1.5 … : σ of 1 … 6 is 1.871, of which 2/√6.
    assert found.noise == pytest.approx(2 * 1.8708 / 6**0.5, rel=1e-3)
    assert found.lost > found.noise


def test_scores_that_stay_are_none_and_few_kills_say_nothing() -> None:
    found = kept(kills=6, change=-3.5)
    assert found is not None
    assert found.lost < found.noise
    assert kept(kills=4, change=-50.0) is None


def test_half_a_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"time": 1.0, "evaluation": {"return_mean": 9.5}}\n'
        '{"time": 2.0, "updates": 3}\n'
        '{"time": 3.0, "evaluation": {"return_m\n'
        '{"time": 4.0, "evaluation": {"return_mean": 11}}\n'
    )
    assert scores_of(path) == [(1.0, 9.5), (4.0, 11)]


MB = 1 << 20
CALM = (Use(100 * MB, 20, 9), Use(104 * MB, 20, 10))


@pytest.mark.parametrize(
    ("findings", "times_s", "halves", "broken"),
    [
        (Findings(), [2.0, 2.5, 9.0], CALM, []),
        (Findings(lost=1), [2.0], CALM, ["acknowledged and lost"]),
        (Findings(doubled=1), [2.0], CALM, ["stored twice"]),
        (Findings(altered=1), [2.0], CALM, ["altered"]),
        (Findings(), [2.0, 3.5, 9.0], CALM, ["replay_server: kill to work, median"]),
        (
            Findings(),
            [2.0],
            # 1.1 × 100 MB + 16 MB.
            (Use(100 * MB, 20, 9), Use(127 * MB, 29, 12)),
            [
                "actor: memory, second half to first",
                "actor: file descriptors, second half less first",
                "actor: threads, second half less first",
            ],
        ),
    ],
    ids=["all is well", "lost", "doubled", "altered", "slow", "grows"],
)
def test_a_promise_that_is_broken_shows(
    findings: Findings, times_s: list[float], halves: tuple[Use, Use], broken: list[str]
) -> None:
    toll = Toll(kills={"replay_server": len(times_s)}, back_s={"replay_server": times_s})
    rows = rows_of(findings, toll, None, {"actor": halves}, minutes=1.0)
    assert [row.figure for row in rows if not row.holds] == broken
    assert table(rows).count("BROKEN") == len(broken)


def test_forgetting_is_a_broken_promise() -> None:
    rows = rows_of(Findings(), Toll(), Forgetting(101.0, 90.0, noise=4.0), {}, minutes=1.0)
    assert [row.figure for row in rows if not row.holds] == ["lost by it"]


def test_the_table_has_a_line_for_each_figure() -> None:
    lines = table([Row("a figure", 2.0, "s", 4.0), Row("another", 7.0, "kills")]).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["a", "figure", "2", "s", "4", "0.50"],
        ["another", "7", "kills"],
    ]
