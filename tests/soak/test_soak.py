"""Soaks that are short: what is acknowledged is there, once, whoever was killed."""

from pathlib import Path

import pytest

from tests.soak.run import LAUNCHER
from tests.soak.soak import ROLES, Options, Result, soak


def assert_nothing_lost(result: Result, kills: int) -> None:
    assert result.failure == ""
    assert result.findings.told == []
    assert result.findings.clean
    assert result.findings.acknowledged > 10
    assert sum(result.toll.kills.values()) >= kills


@pytest.mark.timeout(600)
def test_a_kill_of_each_role_loses_and_doubles_nothing(tmp_path: Path) -> None:
    options = Options(
        minutes=8.0,
        kill=("learner", "replay_server", "actor", LAUNCHER),
        seed=1,
        every_s=0.5,
        most_kills=5,
    )
    assert_nothing_lost(soak(options, tmp_path), kills=5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_minute_of_kills_loses_and_doubles_nothing(tmp_path: Path) -> None:
    options = Options(minutes=1.0, kill=ROLES, seed=2, every_s=2.0)
    assert_nothing_lost(soak(options, tmp_path), kills=6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cartpole_is_solved_through_six_kills(tmp_path: Path) -> None:
    options = Options(
        minutes=10.0,
        kill=("learner", "replay_server", "actor", "evaluator"),
        seed=3,
        every_s=2.0,
        most_kills=6,
        solve=True,
    )
    result = soak(options, tmp_path)
    assert result.solved
    # Two come in the first four seconds; a fast machine may be done before the last.
    assert_nothing_lost(result, kills=2)
