"""The command lines that are no run: help, and evaluate."""

import json
import signal
from pathlib import Path

import pytest

from common.config import Config
from deploy.__main__ import COMMANDS
from deploy.evaluate import evaluate
from tests.integration.conftest import Start
from tests.integration.runs import checkpoints_of


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        ("deploy", list(COMMANDS)),
        ("deploy --help", list(COMMANDS)),
        ("deploy launch --help", ["--preset", "--resume", "--in-process", "--run-dir"]),
        ("deploy status --help", ["HEAD", "--json"]),
        (
            "deploy evaluate --help",
            ["--episodes", "--seed", "--json", "--checkpoint", "--env-kwargs"],
        ),
        ("deploy plot --help", ["--out", "--statistic", "--group", "RUN_DIR"]),
        ("deploy play --help", ["--checkpoint", "--video", "--render", "--q-values", "--fps"]),
        ("learner --help", ["--bind", "--run-dir", "--resume", "--config"]),
        ("replay_server --help", ["--connect", "--bind", "--storage"]),
        ("actor --help", ["--connect", "--envs", "--evaluator", "--inference", "--videos"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_command_explains_itself(start: Start, words: str, fragments: list[str]) -> None:
    command = start(*words.split())
    assert command.wait() == 0
    for fragment in fragments:
        assert fragment in command.output()


@pytest.mark.parametrize("program", ["deploy launch", "learner"])
def test_help_lists_every_field_of_the_configuration(start: Start, program: str) -> None:
    command = start(*program.split(), "--help")
    assert command.wait() == 0
    for name in Config.model_fields:
        assert f"--{name.replace('_', '-')}" in command.output()


def test_an_unknown_command_is_answered_by_those_that_there_are(start: Start) -> None:
    command = start("deploy", "lunch")
    assert command.wait() == 2
    first, *rest = command.output().splitlines()
    assert first == "error: unknown command 'lunch'"
    assert any("launch" in line for line in rest)


def test_evaluate_gives_the_returns_of_greedy_episodes_as_json(
    start: Start, finished_run: Path
) -> None:
    words = ("deploy", "evaluate", str(finished_run), "--episodes", "3", "--seed", "5", "--json")
    first, second = start(*words), start(*words)
    assert first.wait() == second.wait() == 0
    result = json.loads(first.output())
    assert result.keys() == {"return_mean", "return_std", "return_min", "return_max", "episodes"}
    assert result["episodes"] == 3
    assert 8.0 <= result["return_min"] <= result["return_mean"] <= result["return_max"] <= 500.0
    # The same seed, the same episodes.
    assert json.loads(second.output()) == result


def test_play_that_is_interrupted_leaves_no_half_video(
    start: Start, finished_run: Path, tmp_path: Path
) -> None:
    films = tmp_path / "films"
    words = ("--episodes", "100000", "--video", str(films))
    command = start("deploy", "play", str(finished_run), *words)
    command.line("episode 1: return ")
    command.signal_group(signal.SIGINT)
    assert command.wait() == 130
    assert command.nothing_left()
    told = [line.rpartition(", ")[2] for line in command.output().splitlines()]
    # One may have been finished and not told yet.
    assert {path.suffix for path in films.iterdir()} == {".mp4"}
    assert 0 <= len(list(films.iterdir())) - len(told) <= 1


def test_evaluate_takes_the_checkpoint_it_is_told(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbered = checkpoints_of(finished_run)
    for name, file in (
        ("best", "best.safetensors"),
        ("latest", f"{numbered[-1]:08d}.safetensors"),
        (str(numbered[0]), f"{numbered[0]:08d}.safetensors"),
    ):
        assert evaluate([str(finished_run), "--checkpoint", name, "--episodes", "1"]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"CartPole-v1, {file}: return ")
        assert said.rstrip().endswith("over 1 greedy episodes")


def test_plot_draws_what_a_run_has_recorded(
    start: Start, tmp_path: Path, finished_run: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the extra watch is not installed")
    command = start("deploy", "plot", str(finished_run), "--out", "curve.svg")
    assert command.wait() == 0
    assert command.output() == "wrote curve.svg\n"
    assert (tmp_path / "curve.svg").read_text().count("<svg") == 1
