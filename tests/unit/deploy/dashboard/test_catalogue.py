"""The list of runs: what became of each, from little reading."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.config import Config, write_toml
from common.run_directory import TAIL_BYTES
from deploy.dashboard import catalogue as catalogue_module
from deploy.dashboard.catalogue import SILENCE_S, Catalogue, Run, State

NOW_S = 1_000_000.0


def make_run(
    run_dir: Path,
    *,
    result: dict[str, Any] | str | None = None,
    lines: list[dict[str, Any]] | str | None = None,
    config: Config | str | None = None,
    written_s: float = NOW_S,
    ended_s: float = NOW_S,
) -> Path:
    """A run's directory: its metrics were written at `written_s`, its result at `ended_s`."""
    run_dir.mkdir()
    if isinstance(config, str):
        (run_dir / "config.toml").write_text(config)
    else:
        write_toml(config or Config(env="CartPole-v1"), run_dir / "config.toml")
    os.utime(run_dir / "config.toml", (written_s, written_s))
    if lines is not None:
        text = lines if isinstance(lines, str) else "".join(json.dumps(x) + "\n" for x in lines)
        put(run_dir / "metrics.jsonl", text, written_s)
    if result is not None:
        put(
            run_dir / "result.json",
            result if isinstance(result, str) else json.dumps(result),
            ended_s,
        )
    return run_dir


def put(path: Path, text: str, changed_s: float) -> None:
    path.write_text(text)
    os.utime(path, (changed_s, changed_s))


def line(env_steps: int, wall_s: float, **values: float) -> dict[str, Any]:
    return {"env_steps": env_steps, "wall_s": wall_s, **values}


def catalogue(runs_dir: Path, now_s: float = NOW_S) -> Catalogue:
    return Catalogue(runs_dir, lambda: now_s)


def only(runs_dir: Path, now_s: float = NOW_S) -> Run:
    (run,) = catalogue(runs_dir, now_s).runs()
    return run


RESULT = {"env": "CartPole-v1", "reason": "budget", "eval_return_mean": 123.0,
          "env_steps": 5_000, "wall_s": 12.5}  # fmt: skip


@pytest.mark.parametrize(
    ("result", "written_s", "ended_s", "state"),
    [
        ({**RESULT, "reason": "target"}, NOW_S - 900, NOW_S - 900, State.SOLVED),
        (RESULT, NOW_S - 900, NOW_S - 901, State.FINISHED),
        ({**RESULT, "reason": "stopped"}, NOW_S - 900, NOW_S - 900, State.STOPPED),
        # The last second's line is written after the result.
        (RESULT, NOW_S - 1, NOW_S - 2, State.FINISHED),
        (None, NOW_S - 1, 0.0, State.RUNNING),
        (None, NOW_S - SILENCE_S - 1, 0.0, State.KILLED),
        # Resumed after its end: it runs, or was killed then.
        ({**RESULT, "reason": "stopped"}, NOW_S - 1, NOW_S - 900, State.RUNNING),
        ({**RESULT, "reason": "stopped"}, NOW_S - 100, NOW_S - 900, State.KILLED),
        # Killed, and then the clock was put back by an hour.
        (None, NOW_S + 3_600, 0.0, State.KILLED),
        # A reason that a later version gives.
        ({**RESULT, "reason": "boredom"}, NOW_S - 900, NOW_S - 900, State.FINISHED),
    ],
)  # fmt: skip
def test_what_became_of_a_run_shows_in_its_files(
    tmp_path: Path,
    result: dict[str, Any] | None,
    written_s: float,
    ended_s: float,
    state: State,
) -> None:
    make_run(
        tmp_path / "a", result=result, lines=[line(10, 1.0)], written_s=written_s, ended_s=ended_s
    )
    assert only(tmp_path).state is state


def test_a_finished_run_is_told_by_its_result_and_a_running_one_by_its_newest_line(
    tmp_path: Path,
) -> None:
    lines = [line(10, 1.0, learner_score=1.0), line(20, 2.0, learner_score=2.0)]
    make_run(tmp_path / "done", lines=lines, result=RESULT)
    make_run(tmp_path / "live", lines=lines)
    # Resumed: the result is that of the part before.
    make_run(tmp_path / "more", lines=lines, result=RESULT, ended_s=NOW_S - 900)
    found = {run.name: run for run in catalogue(tmp_path).runs()}
    told = {name: (run.score, run.env_steps, run.wall_s) for name, run in found.items()}
    assert told == {
        "done": (123.0, 5_000, 12.5),
        "live": (2.0, 20, 2.0),
        "more": (2.0, 20, 2.0),
    }


def test_of_a_long_file_only_the_end_is_read_and_half_a_line_is_passed_over(
    tmp_path: Path,
) -> None:
    filler = json.dumps(line(1, 0.5, filler=1.5)) + "\n"
    text = filler * (3 * TAIL_BYTES // len(filler)) + json.dumps(line(77, 7.0)) + '\n{"env_st'
    make_run(tmp_path / "a", lines=text)
    run = only(tmp_path)
    assert (run.env_steps, run.wall_s, run.notes) == (77, 7.0, ())


@pytest.mark.parametrize(
    ("broken", "note"),
    [
        ({"config": "env = ["}, "config.toml cannot be read"),
        ({"result": '{"reas'}, "result.json cannot be read"),
        ({"result": "[1]"}, "result.json cannot be read: it holds no object"),
        ({"lines": None}, "no metrics.jsonl: the run is of an older version, or has not begun"),
    ],
)
def test_what_cannot_be_read_costs_one_line_and_the_rest_is_shown(
    tmp_path: Path, broken: dict[str, Any], note: str
) -> None:
    make_run(tmp_path / "a", **{"lines": [line(10, 1.0)], **broken})
    run = only(tmp_path)
    (told,) = run.notes
    assert told.startswith(note)
    assert "\n" not in told
    assert run.name == "a"
    assert run.env == ("?" if "config" in broken else "CartPole-v1")


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Those that a catalogue reads, as it reads them."""
    found: list[Path] = []

    def noted(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
        return lambda path: (found.append(path), read(path))[1]

    for name in ("_toml", "_json", "last_line"):
        monkeypatch.setattr(catalogue_module, name, noted(getattr(catalogue_module, name)))
    return found


def test_files_that_did_not_change_are_not_read_again(
    tmp_path: Path, files_read: list[Path]
) -> None:
    for i in range(3):
        make_run(tmp_path / f"run-{i}", lines=[line(10, 1.0)], result=RESULT)
    runs = catalogue(tmp_path)
    runs.runs()
    assert len(files_read) == 9
    runs.runs()
    assert len(files_read) == 9
    changed = tmp_path / "run-1" / "metrics.jsonl"
    put(changed, json.dumps(line(30, 3.0)) + "\n", NOW_S + 1)
    runs.runs()
    assert files_read[9:] == [changed]


def test_newest_first_and_only_what_holds_a_run(tmp_path: Path) -> None:
    make_run(tmp_path / "old", lines=[line(1, 1.0)], written_s=NOW_S - 500)
    make_run(tmp_path / "new", lines=[line(1, 1.0)])
    (tmp_path / "notes").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file.txt").write_text("")
    assert [run.name for run in catalogue(tmp_path).runs()] == ["new", "old"]


def test_a_run_directory_itself_is_a_list_of_one(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "a", lines=[line(1, 1.0)])
    assert only(run_dir).name == "a"


def test_no_runs_are_one_line_that_says_how_to_start_one(tmp_path: Path) -> None:
    runs = catalogue(tmp_path)
    assert runs.runs() == []
    (note,) = runs.notes
    assert "holds no run yet" in note
    assert "deploy launch" in note
