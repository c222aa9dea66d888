"""`python -m deploy plot`, and the pictures at the end of a launch."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config import Config, write_toml
from common.process import run_main
from deploy import launch as launch_module
from deploy.history import History
from deploy.plot import plot
from tests.written_runs import evaluated, line, write_run

pytest.importorskip("matplotlib", reason="the extra watch is not installed")
pytest.importorskip("scipy", reason="the extra watch is not installed")

from deploy.comparison import group_runs
from deploy.comparison_figure import comparison_figure

CONFIGURATION, DIRECTORY = 2, 7
"""Exit codes of `common.errors`."""
MAGIC = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(name: str, scores: list[float], **config: Any) -> Path:
    """A finished run with evaluations at 100, 200, … steps and 1, 2, … seconds; its path."""
    lines = [evaluated(i, 100 * i, score) for i, score in enumerate(scores, start=1)]
    return write_run(Path(name), config=Config(**config), lines=lines, result={"solved": False})


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if the package were not installed."""
    for name in list(sys.modules):
        if name.split(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
        if name in ("deploy.curves", "deploy.comparison", "deploy.comparison_figure"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


# ------------------------------------------------------------------------------------------ one run


def test_one_run_alone_gets_its_two_pictures_anew(capsys: pytest.CaptureFixture[str]) -> None:
    run("a", [1.0, 2.0])
    for _ in range(2):
        assert plot(["a"]) == 0
        assert capsys.readouterr().out == "wrote a/curve.png and a/throughput.png\n"
        for name in ("curve.png", "throughput.png"):
            path = Path("a", name)
            assert path.read_bytes().startswith(MAGIC[".png"])
            path.unlink()


def test_a_run_that_is_named_twice_is_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    run("a", [1.0, 2.0])
    assert plot(["a", "./a/", str(Path("a").resolve())]) == 0
    assert capsys.readouterr().out == "wrote a/curve.png and a/throughput.png\n"


@pytest.mark.parametrize("name", ["curve.png", "curve.svg", "curve.pdf", "CURVE.PNG"])
def test_the_ending_decides_the_format(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("a", [1.0, 2.0])
    assert plot(["a", "--out", name]) == 0
    assert capsys.readouterr().out == f"wrote {name}\n"
    assert Path(name).read_bytes().startswith(MAGIC[Path(name).suffix.lower()])
    assert not Path("a", "curve.png").exists()


def test_notes_are_said_once_for_each_run(capsys: pytest.CaptureFixture[str]) -> None:
    run("a", [1.0])
    write_run(Path("b"), config=Config(seed=1), lines=[evaluated(1.0, 100, 3.0)])
    with Path("b", "metrics.jsonl").open("a") as file:
        file.write('{"half')
    assert plot(["a", "b"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "b: a line of metrics.jsonl cannot be read: a killed run leaves one unfinished",
        "b: no result.json: the run goes on, or was killed",
        "wrote plot.png: 2 runs, 1 curve",
    ]


# ------------------------------------------------------------------------------------- several runs


def test_several_runs_are_one_picture(capsys: pytest.CaptureFixture[str]) -> None:
    for batch_size in (64, 128):
        for seed in (0, 1, 2):
            run(f"b{batch_size}-{seed}", [1.0, 2.0 + seed], batch_size=batch_size, seed=seed)
    runs = sorted(map(str, Path().iterdir()))
    assert plot([*runs, "--statistic", "iqm", "--x", "wall", "--out", "both.svg"]) == 0
    assert capsys.readouterr().out == "wrote both.svg: 6 runs, 2 curves\n"
    assert plot([*runs, "--group", "env", "--group", "seed"]) == 0
    assert capsys.readouterr().out == "wrote plot.png: 6 runs, 3 curves\n"


def test_a_run_without_an_evaluation_is_left_out_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("a", [1.0])
    run("b", [2.0], seed=1)
    write_run(Path("c"), config=Config(), lines=[line(1.0, 10)], result={})
    assert plot(["a", "b", "c"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "c: not in the picture, for it has no evaluation yet",
        "wrote plot.png: 2 runs, 1 curve",
    ]


def histories(*scores: list[float], **config: Any) -> list[History]:
    return [
        History(
            Path(f"r{seed}"),
            Config(seed=seed, **config),
            [evaluated(100.0 * i, 1_000 * i, s) for i, s in enumerate(of_run, start=1)],
            None,
        )
        for seed, of_run in enumerate(scores)
    ]


def test_a_curve_is_the_mean_of_its_runs_and_dotted_once_some_have_ended() -> None:
    runs = histories([0.0, 10.0, 20.0], [0.0, 30.0], target_return=25.0)
    figure = comparison_figure(group_runs(runs), "mean", "env_steps")
    (axes,) = figure.axes
    by_label = {str(x.get_label()): x for x in axes.lines}
    complete = by_label["CartPole-v1 (2 runs)"]
    x, y = np.asarray(complete.get_xdata()), np.asarray(complete.get_ydata())
    assert x[[0, 100, 200]].tolist() == [1_000.0, 2_000.0, 3_000.0]
    assert y[[0, 50, 100]].tolist() == [0.0, 10.0, 20.0]
    assert np.isnan(y[101:]).all()
    (dotted,) = [x for x in axes.lines if x.get_linestyle() == ":"]
    assert np.asarray(dotted.get_ydata())[[0, 50, 100, 150, 200]].tolist() == [0, 10, 20, 15, 20]
    assert np.asarray(by_label["target 25"].get_ydata()).tolist() == [25.0, 25.0]
    # Each run as it is, too.
    thin = [np.asarray(x.get_ydata()).tolist() for x in axes.lines if x.get_alpha() == 0.3]
    assert thin == [[0.0, 10.0, 20.0], [0.0, 30.0]]
    assert axes.get_title(loc="left").startswith("mean over runs, 95% bootstrap band")


def test_a_curve_whose_runs_are_nowhere_all_there_is_dotted_and_named_all_the_same() -> None:
    early, late, never = histories([1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    for at in late.lines:
        at["evaluation"]["env_steps"] += 5_000
    figure = comparison_figure(group_runs([early, late, never]), "mean", "env_steps")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    (complete,) = [x for x in axes.lines if x.get_label() == "CartPole-v1 (3 runs)"]
    assert np.isnan(np.asarray(complete.get_ydata())).all()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["CartPole-v1 (3 runs)"]


def test_a_picture_over_wall_time_has_its_unit() -> None:
    figure = comparison_figure(group_runs(histories([0.0, 1.0, 2.0])), "iqm", "wall")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "wall time (min)"
    (alone,) = [x for x in axes.lines if x.get_label() == "CartPole-v1"]
    assert np.asarray(alone.get_xdata())[[0, 200]].tolist() == pytest.approx([100 / 60, 300 / 60])


def test_runs_with_different_targets_have_none_drawn() -> None:
    runs = [*histories([1.0], target_return=1.0), *histories([2.0], target_return=2.0)]
    figure = comparison_figure(group_runs(runs), "mean", "env_steps")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["target_return=1", "target_return=2"]


def test_many_curves_all_look_different() -> None:
    runs = [h for n in range(1, 51) for h in histories([float(n)], n_step=n)]
    figure = comparison_figure(group_runs(runs), "mean", "env_steps")
    # A legend that leaves no room for the curves is a warning, and so an error here.
    figure.draw_without_rendering()
    (axes,) = figure.axes
    looks = {(x.get_color(), x.get_marker()) for x in axes.lines if "n_step" in x.get_label()}
    assert len(looks) == 50


# ------------------------------------------------------------------------------------------ refused

NO_RUN = " holds no run: none of config.toml, metrics.jsonl and result.json can be read there"
MEND = ": make its directory, or choose another --out"
UNKNOWN = ": the configuration has no such key; did you mean "


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        ("", CONFIGURATION, "plot needs the directory of a run, or of several"),
        ("nowhere", DIRECTORY, "nowhere is no directory: a run's directory is expected"),
        ("a nowhere", DIRECTORY, "nowhere is no directory: a run's directory is expected"),
        ("a empty", DIRECTORY, f"empty{NO_RUN}"),
        ("a --out a.bmp", CONFIGURATION, "--out a.bmp: its ending must be one of .png, .svg, .pdf"),
        ("a --out a", CONFIGURATION, "--out a: its ending must be one of .png, .svg, .pdf"),
        ("a --out no/a.png", DIRECTORY, f"cannot write no/a.png (No such file or directory){MEND}"),
        # A directory cannot lie below a file, whoever asks (root may write anywhere else).
        ("a b --out file/a.png", DIRECTORY, f"cannot write file/a.png (Not a directory){MEND}"),
        ("a b --group batch_sise", CONFIGURATION, f"--group batch_sise{UNKNOWN}batch_size?"),
        ("new newer", DIRECTORY, "nothing to draw: none of these runs has an evaluation yet"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_said_in_one_line(
    words: str, exit_code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("a", [1.0])
    run("b", [2.0], seed=1)
    run("new", [])
    run("newer", [])
    Path("empty").mkdir()
    Path("file").touch()
    assert run_main(lambda: plot(words.split())) == exit_code
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("package", ["matplotlib", "scipy"])
def test_a_package_that_is_missing_is_named_with_its_extra(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("a", [1.0])
    run("b", [2.0], seed=1)
    without(monkeypatch, package)
    assert run_main(lambda: plot(["a", "b"])) == CONFIGURATION
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: plot needs matplotlib and scipy (")
    assert package in message
    assert message.endswith("): pip install 'zapex[watch]'")


# --------------------------------------------------------------------------- at the end of a launch

SOLVED = {
    "solved": True,
    "reason": "target",
    "eval_return_mean": 500.0,
    "eval_return_std": 0.0,
    "eval_episodes": 100,
    "env_steps": 12_345,
    "learner_updates": 678,
    "wall_s": 9.0,
}


def finished(name: str) -> Path:
    return write_run(Path(name), config=Config(), lines=[evaluated(1.0, 100, 500.0)], result=SOLVED)


def test_a_launch_ends_with_its_pictures_after_its_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert launch_module._conclude(Config(), finished("a"), interrupted=False) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("solved: CartPole-v1, greedy return 500.0")
    assert last == "  pictures: a/curve.png, a/throughput.png"
    assert Path("a/curve.png").exists()
    assert Path("a/throughput.png").exists()


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_launch_that_was_stopped_has_pictures_too(
    interrupted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """By whoever runs it, or because somebody stopped its learner."""
    run_dir = run("a", [1.0, 2.0])
    if not interrupted:
        stopped = {**SOLVED, "solved": False, "reason": "stopped"}
        (run_dir / "result.json").write_text(json.dumps(stopped))
    assert launch_module._conclude(Config(), run_dir, interrupted=interrupted) == 130
    assert capsys.readouterr().out.splitlines() == [
        "stopped. Continue with: python -m deploy launch --resume a",
        "  pictures: a/curve.png, a/throughput.png",
    ]


def test_a_launch_without_matplotlib_says_how_to_get_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "matplotlib")
    assert launch_module._conclude(Config(), finished("a"), interrupted=False) == 0
    assert capsys.readouterr().out.splitlines()[-1] == ("  no pictures: pip install 'zapex[watch]'")


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (OSError("no space left"), "  no pictures: no space left"),
        (MemoryError(), "  no pictures: MemoryError"),
        (KeyboardInterrupt(), "  no pictures: KeyboardInterrupt"),
    ],
)
def test_pictures_that_cannot_be_drawn_leave_a_good_run_good(
    failure: BaseException,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setattr("deploy.curves.draw_run", fail)
    assert launch_module._conclude(Config(), finished("a"), interrupted=False) == 0
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_a_launch_that_wrote_nothing_at_all_still_ends(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a").mkdir()
    write_toml(Config(), Path("a/config.toml"))
    assert launch_module._conclude(Config(), Path("a"), interrupted=True) == 130
    assert "pictures" in capsys.readouterr().out
