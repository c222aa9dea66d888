"""What can be read of a run is read, and what cannot is said in a line."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from common.config import Config
from common.errors import RunDirectoryError
from deploy import history as module
from deploy.history import History, read_history
from tests.written_runs import Line, evaluated, evaluation, line, write_run

CONFIG = Config(seed=7)
LINES = [line(1.0, 10), line(2.0, 20), line(3.0, 30)]
RESULT = {"solved": False, "env_steps": 30, "evaluations": []}
NO_METRICS = "no metrics.jsonl: the run is of an older version, or has not begun"
NO_RESULT = "no result.json: the run goes on, or was killed"


def whole(run_dir: Path, **parts: Any) -> Path:
    return write_run(run_dir, **{"config": CONFIG, "lines": LINES, "result": RESULT, **parts})


def of_lines(*lines: Line, result: dict[str, Any] | None = None) -> History:
    return History(Path("runs/a"), CONFIG, list(lines), result)


# ---------------------------------------------------------------------------------------- reading


def test_a_finished_run_is_read_whole_and_without_a_note(tmp_path: Path) -> None:
    history = read_history(whole(tmp_path / "a"))
    assert (history.config, history.lines, history.result) == (CONFIG, LINES, RESULT)
    assert history.notes == []
    assert history.name == "a"


@pytest.mark.parametrize(
    ("parts", "notes"),
    [
        ({"result": None}, [NO_RESULT]),
        ({"lines": None}, [NO_METRICS]),
        ({"lines": None, "result": None}, [NO_METRICS, NO_RESULT]),
    ],
    ids=["killed", "older version", "not begun"],
)
def test_what_is_missing_is_noted(tmp_path: Path, parts: dict[str, Any], notes: list[str]) -> None:
    history = read_history(whole(tmp_path, **parts))
    assert history.config == CONFIG
    assert history.notes == notes


@pytest.mark.parametrize(
    ("rubbish", "what"),
    [
        (b'{"wall_s": 4.0, "env_st', "a line"),
        (b'{"wall_s": 4.0, "env_st\n\n', "a line"),
        (b"\x00\xff\xfe{\x80\n\xc3\n", "2 lines"),
        (b"[" * 100_000 + b"\n", "a line"),
        (b'"words"\n[1, 2]\n{"wall_s": 4.0}\n', "3 lines"),
        (b'{"wall_s": NaN, "env_steps": 40}\n{"wall_s": "4", "env_steps": 40}\n', "2 lines"),
    ],
    ids=["half a line", "then an empty one", "bytes", "nested", "no lines of ours", "no numbers"],
)
def test_lines_that_cannot_be_read_are_left_out_and_counted(
    tmp_path: Path, rubbish: bytes, what: str
) -> None:
    with (whole(tmp_path) / "metrics.jsonl").open("ab") as file:
        file.write(rubbish)
    history = read_history(tmp_path)
    assert history.lines == LINES
    assert history.notes == [
        f"{what} of metrics.jsonl cannot be read: a killed run leaves one unfinished"
    ]


def test_a_line_that_was_cut_in_the_middle_does_not_hide_those_after_it(tmp_path: Path) -> None:
    path = whole(tmp_path, lines=LINES[:1]) / "metrics.jsonl"
    path.write_text(path.read_text() + '{"wall_s": 1.5, "en\n' + json.dumps(LINES[1]) + "\n")
    assert [at["env_steps"] for at in read_history(tmp_path).lines] == [10, 20]


@pytest.mark.parametrize(
    ("file", "content", "note"),
    [
        ("config.toml", "batch_size = ", "its configuration cannot be read: .* is not TOML"),
        ("config.toml", "sead = 3", "its configuration cannot be read: .*unknown key 'sead'"),
        ("result.json", '{"solved": tr', "result.json cannot be read: Expecting value"),
        ("result.json", "[]", "result.json cannot be read: it is no object"),
        ("result.json", "\udcff", "result.json cannot be read: .*invalid start byte"),
    ],
)
def test_a_damaged_file_is_noted_and_the_others_are_read(
    tmp_path: Path, file: str, content: str, note: str
) -> None:
    (whole(tmp_path) / file).write_bytes(content.encode(errors="surrogateescape"))
    history = read_history(tmp_path)
    (noted,) = history.notes
    assert re.match(note, noted)
    assert history.lines == LINES
    assert (history.config is None, history.result is None) == (
        file == "config.toml",
        file == "result.json",
    )


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json"])
def test_a_file_that_the_system_does_not_open_is_noted(tmp_path: Path, name: str) -> None:
    (whole(tmp_path) / name).unlink()
    (tmp_path / name).mkdir()
    assert read_history(tmp_path).notes == [f"{name} cannot be read: Is a directory"]


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("nowhere", "nowhere is no directory: a run's directory is expected"),
        ("file", "file is no directory"),
        ("empty", r"empty holds no run: none of config.toml, metrics.jsonl and result.json can"),
        ("other", r"other holds no run: none of config.toml, metrics.jsonl and result.json can"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, where: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    for file in ("file", "other/notes.txt"):
        (tmp_path / file).touch()
    with pytest.raises(RunDirectoryError, match=reason):
        read_history(tmp_path / where)


# ------------------------------------------------------------------------------- resumed, and long


def test_what_a_killed_run_had_done_after_its_checkpoint_is_left_out(tmp_path: Path) -> None:
    before = [line(1.0, 100, 10), evaluated(2.0, 200, 1.0), line(3.0, 300, 30)]
    lost = [line(4.0, 400, 40), evaluated(5.0, 500, 2.0)]
    # Resumed from a checkpoint of 3.2 s, 320 steps and 32 updates; starting took a second and more,
    # so that wall time alone would not tell the line at 4.0 s from what was done again.
    after = [line(4.3, 320, 32), evaluated(5.3, 420, 3.0)]
    history = read_history(whole(tmp_path, lines=before + lost + after))
    assert history.lines == before + after
    assert [e["return_mean"] for e in history.evaluations] == [1.0, 3.0]
    assert history.notes == [
        "2 lines of metrics.jsonl left out: done again after the run was resumed"
    ]


def test_a_clock_that_is_set_back_costs_no_lines(tmp_path: Path) -> None:
    lines = [line(1.0, 100, 10), line(2.0, 200, 20), line(1.5, 300, 30), line(2.5, 400, 40)]
    history = read_history(whole(tmp_path, lines=lines))
    assert history.lines == lines
    assert history.notes == []
    # 300 steps in the 1.5 s that are known to have passed.
    assert sum(rate for *_, rate in history.rates("env_steps", window_s=1.2)) == 300 / 1.5


def test_of_a_long_run_every_nth_line_is_kept_and_nothing_that_happened_but_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LINES", 100)
    lines = [line(float(i), 10 * i, i, episode_returns=[i, i + 0.5]) for i in range(995)]
    for i in (0, 1, 500, 503, 994):
        lines[i]["evaluation"] = evaluation(float(i), 10 * i, float(i))
    history = read_history(whole(tmp_path, lines=lines))
    assert len(history.lines) <= 100 + 2 * 5
    assert history.lines[-1]["wall_s"] == 994.0
    assert max(b["wall_s"] - a["wall_s"] for a, b in pairwise(history.lines)) == 10.0
    assert [e["return_mean"] for e in history.evaluations] == [0.0, 1.0, 500.0, 503.0, 994.0]
    returns = [value for at in history.lines for value in at["episode_returns"]]
    assert returns == [value for at in lines for value in at["episode_returns"]]
    assert {rate for *_, rate in history.rates("env_steps")} == {10.0}


# -------------------------------------------------------------------------------------- evaluations


def test_evaluations_of_a_run_without_metrics_are_those_of_its_result() -> None:
    told = [evaluation(1.0, 100, 5.0), evaluation(2.0, 200, 6.0)]
    assert of_lines(result={"evaluations": told}).evaluations == told


def test_an_evaluation_that_both_files_tell_counts_once() -> None:
    # A run that was stopped has a result, and goes on when it is resumed.
    first, second, third = (evaluation(float(i), 100 * i, 5.0 * i) for i in (1, 2, 3))
    lines = [line(2.5, 250, evaluation=second), line(3.5, 350, evaluation=third)]
    assert of_lines(*lines, result={"evaluations": [first, second]}).evaluations == [
        first, second, third,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "odd",
    [None, 3, {}, {"return_mean": 1.0}, {**evaluation(1.0, 1, 1.0), "return_mean": None}],
)
def test_an_evaluation_without_a_score_and_a_place_is_none(odd: Any) -> None:
    assert of_lines(result={"evaluations": [odd]}).evaluations == []
    assert of_lines(line(1.0, 1, evaluation=odd)).evaluations == []
    assert of_lines(result={"evaluations": odd}).evaluations == []


@pytest.mark.parametrize(
    ("scores", "solving", "best"),
    [
        ([3.0, 9.0, 9.0, 5.0], [], 2),
        # Solving took more episodes, whose mean was lower; these weights are kept all the same.
        ([3.0, 9.0, 8.0], [2], 2),
        # It was resumed, with another target or without one.
        ([3.0, 9.0, 8.0, 7.0, 2.0], [2], 2),
        ([3.0, 9.0, 8.0, 8.5, 2.0], [2], 3),
        ([3.0, 9.0, 8.0, 8.5, 8.2], [2, 4], 4),
        ([-5.0], [], 0),
    ],
)
def test_the_best_evaluation_is_that_of_the_weights_which_are_kept(
    scores: list[float], solving: list[int], best: int
) -> None:
    lines = [evaluated(float(i), 100 * i, score) for i, score in enumerate(scores)]
    for i in solving:
        lines[i]["evaluation"]["solved"] = True
    history = of_lines(*lines, result={"solved": bool(solving)})
    assert history.best_evaluation == lines[best]["evaluation"]


def test_the_best_evaluation_is_none_whose_weights_were_lost() -> None:
    lines = [evaluated(float(i), 100 * i, score) for i, score in enumerate([1.0, 9.0, 2.0])]
    lines[1]["evaluation"]["weights_lost"] = True
    assert of_lines(*lines).best_evaluation == lines[2]["evaluation"]


def test_a_run_without_evaluations_has_no_best_one() -> None:
    assert of_lines(line(1.0, 10), result={"solved": True}).best_evaluation is None


# ------------------------------------------------------------------------------- columns and rates


def test_a_column_has_the_lines_that_have_the_value() -> None:
    history = of_lines(
        line(1.0, 10, learner_loss=0.5),
        line(2.0, 20),
        line(3.0, 30, learner_loss=float("nan")),
        line(4.0, 40, learner_loss="high"),
        line(5.0, 50, learner_loss=2),
    )
    assert history.column("learner_loss") == [(10, 1.0, 0.5), (50, 5.0, 2.0)]
    assert history.column("learner_lose") == []


def test_rates_are_growth_per_second_at_the_end_of_each_stretch() -> None:
    history = of_lines(
        line(1.0, 100, n=7.0),
        line(2.0, 300, n=7.0),
        line(2.2, 400, n=8.0),  # 0.2 s alone are no stretch.
        line(4.0, 800, n=12.0),
    )
    assert history.rates("env_steps") == [(300, 2.0, 200.0), (800, 4.0, 250.0)]
    assert history.rates("n") == [(300, 2.0, 0.0), (800, 4.0, 2.5)]
    # 700 steps in 3 s.
    assert history.rates("env_steps", window_s=2.5) == [(800, 4.0, 700 / 3)]


def test_a_counter_that_fell_grew_by_what_it_shows() -> None:
    # 10 s before its process ended, and 4 s since the new one began; what lies between the last
    # line and the end is not known.
    waited = [0.0, 10.0, 4.0, 5.0]
    history = of_lines(*(line(10.0 * i, i, waited_s=w) for i, w in enumerate(waited)))
    assert [rate for *_, rate in history.rates("waited_s")] == [1.0, 0.4, 0.1]


def test_stretches_together_hold_all_the_growth_until_the_last_of_them() -> None:
    counts = [0, 3, 3, 10, 2, 2, 9, 30, 1, 40]
    walls = [0.0, 0.4, 1.1, 1.2, 1.9, 3.0, 3.1, 3.2, 4.4, 6.0]
    history = of_lines(
        *(line(w, i, n=n) for i, (w, n) in enumerate(zip(walls, counts, strict=True)))
    )
    # By hand: +3, 0, +7, 2 (fell), 0, +7, +21, 1 (fell), +39.
    growth = [3, 0, 7, 2, 0, 7, 21, 1, 39]
    for window_s in (0.1, 0.5, 1.0, 2.0):
        rates = history.rates("n", window_s)
        ends = [walls[0]] + [wall_s for _, wall_s, _ in rates]
        assert all(b - a >= window_s - 1e-9 for a, b in pairwise(ends))
        total = sum(
            rate * (b - a) for (a, b), (*_, rate) in zip(pairwise(ends), rates, strict=True)
        )
        assert total == pytest.approx(sum(growth[: walls.index(ends[-1])]))


@pytest.mark.parametrize(
    ("walls", "rates"),
    [([], []), ([1.0], []), ([1.0, 1.0], []), ([1.0, 1.25], [(10, 1.25, 40.0)])],
)
def test_a_very_short_run_has_one_rate_or_none(
    walls: list[float], rates: list[tuple[float, float, float]]
) -> None:
    history = of_lines(*(line(w, 10 * i) for i, w in enumerate(walls)))
    assert history.rates("env_steps") == rates


def test_training_returns_are_means_of_the_newest_episodes() -> None:
    history = of_lines(
        line(1.0, 10, episode_returns=[1.0, 2.0]),
        line(2.0, 20),
        line(3.0, 30, episode_returns=[3.0, 7.0]),
        line(4.0, 40, episode_returns=[1.0, 1.0, 2.0, 8.0]),
    )
    assert history.training_returns(episodes=3) == [
        (10, 1.0, 1.5),
        (30, 3.0, 4.0),  # (2 + 3 + 7) / 3
        (40, 4.0, 3.0),  # All four that came.
    ]


@pytest.mark.parametrize("episodes", [1, 5, 100])
def test_training_returns_agree_with_a_slow_count(episodes: int) -> None:
    came = [[float(7 * i % 11 + j) for j in range(i * i % 13)] for i in range(60)]
    history = of_lines(*(line(float(i), i, episode_returns=r) for i, r in enumerate(came)))
    expected = []
    for i, returns in enumerate(came):
        everything = [value for earlier in came[: i + 1] for value in earlier]
        newest = everything[-max(episodes, len(returns)) :]
        if returns:
            expected.append((i, float(i), pytest.approx(sum(newest) / len(newest))))
    assert history.training_returns(episodes) == expected
