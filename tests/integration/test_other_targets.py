"""A run that was solved, and goes on: whether it is solved is said of its present target."""

import shutil
import signal
from pathlib import Path

import pytest

from common import run_directory
from common.config import Config
from tests.integration.conftest import InProcess, Start
from tests.integration.runs import ENDLESS, TINY, result_of

SOLVED = {"target_return": 5.0, "confirm_episodes": 3, "total_env_steps": ENDLESS}
"""CartPole never falls before its eighth step."""


@pytest.fixture(scope="module")
def solved_run(in_process: InProcess) -> Path:
    """For reading: copy it to do more."""
    return in_process(Config(**{**TINY, **SOLVED}))


@pytest.mark.parametrize("target", [501.0, None])
def test_with_another_target_it_is_not_solved(
    in_process: InProcess, tmp_path: Path, solved_run: Path, target: float | None
) -> None:
    before = result_of(solved_run)
    assert (before["solved"], before["reason"]) == (True, "target")
    run_dir = tmp_path / "run"
    shutil.copytree(solved_run, run_dir)
    budget = before["env_steps"] + 200
    config = Config(**{**TINY, **SOLVED, "target_return": target, "total_env_steps": budget})
    in_process(config, resume=run_dir)
    after = result_of(run_dir)
    assert (after["solved"], after["reason"], after["target"]) == (False, "budget", target)
    assert run_directory.verdict(run_dir, config) is False


def test_with_the_same_it_stays_solved_also_by_exit_code(
    start: Start, tmp_path: Path, solved_run: Path
) -> None:
    shutil.copytree(solved_run, tmp_path / "run")
    learner = start("learner", "--resume", "--run-dir", "run", "--bind", "tcp://127.0.0.1:0")
    learner.line("resumed from run/checkpoints/")
    learner.process.send_signal(signal.SIGTERM)
    assert learner.wait() == 0
    result = result_of(tmp_path / "run")
    assert (result["solved"], result["reason"]) == (True, "stopped")
