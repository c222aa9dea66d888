"""Scores come late: whose they are, what is kept until then, how long the last one is awaited."""

import logging
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from common.config import Config
from common.messages import EvalResult
from common.spec import EnvSpec
from learner import evaluations
from learner.checkpoint import RunState
from learner.evaluations import (
    FINAL_EVALUATION_S,
    IN_PLAY,
    MAX_PATIENCE_S,
    MAX_WEIGHTS,
    Evaluations,
)
from learner.status import LearnerCounters

SPEC = EnvSpec((4,), "<f4", 2)
EPOCH = 1


class Stage:
    """A run whose learner publishes a version every 100 environment steps and every second."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        self.state = RunState(run_id="run", epoch=EPOCH)
        self.counters = LearnerCounters()
        self.checkpoints = directory
        self.evaluations = Evaluations(
            Config(env="CartPole-v1", **changes), SPEC, self.state, self.counters, directory
        )
        self.version = 0
        self._weights: dict[int, weakref.ref[npt.NDArray[np.float32]]] = {}

    def publish(self, versions: int = 1) -> int:
        """The last version."""
        for _ in range(versions):
            self.version += 1
            self.state.env_steps = 100 * self.version
            array = np.full(3, self.version, np.float32)
            self._weights[self.version] = weakref.ref(array)
            self.evaluations.expect(self.version, {"w": array}, float(self.version))
        return self.version

    def score(self, version: int, score: float, epoch: int = EPOCH) -> dict[str, Any] | None:
        returns, lengths = np.full(2, score, np.float32), np.full(2, 10, np.int32)
        result = EvalResult(1, epoch, version, 0.5, returns, lengths)
        return self.evaluations.take(result, wall_s=float(self.version))

    @property
    def kept(self) -> list[int]:
        """Versions whose weights are in memory."""
        return [version for version, array in self._weights.items() if array() is not None]

    @property
    def best(self) -> float:
        """The version of the best weights on the disk."""
        return float(load_file(self.checkpoints / "best.safetensors")["online.w"][0])


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_score_belongs_to_the_steps_at_which_its_version_was_published(stage: Stage) -> None:
    stage.publish()
    stage.publish(5)
    facts = stage.score(1, 7.0)
    assert facts is not None
    assert (facts["updates"], facts["env_steps"], facts["wall_s"]) == (1, 100, 6.0)
    assert (facts["return_mean"], facts["return_std"], facts["episodes"]) == (7.0, 0.0, 2)
    assert stage.state.evaluations == [facts]


def test_the_live_view_has_the_newest_score_the_best_and_how_many_there_were(stage: Stage) -> None:
    stage.publish(2)
    stage.score(1, 7.0)
    stage.score(2, 5.0)
    counters = stage.counters
    assert (counters.score, counters.best_score, counters.evaluations) == (5.0, 7.0, 2)


def test_of_equal_scores_the_newest_weights_are_the_best(stage: Stage) -> None:
    stage.publish(2)
    stage.score(1, 7.0)
    stage.score(2, 7.0)
    assert stage.best == 2


@pytest.mark.parametrize("later", range(IN_PLAY))
def test_an_evaluation_may_outlast_any_number_of_versions(stage: Stage, later: int) -> None:
    """It began with the newest when the last score came, or with one that came right after."""
    stage.publish(20)
    stage.score(5, 1.0)
    played = 20 - IN_PLAY // 2 + 1 + later
    stage.publish(100)
    assert stage.score(played, 2.0) is not None
    assert stage.best == played
    assert stage.state.best_score == 2.0


def test_an_evaluator_that_comes_late_plays_the_newest(stage: Stage) -> None:
    stage.publish(20)
    stage.evaluations.follow(7)
    stage.publish(100)
    stage.evaluations.follow(7)  # It plays on.
    assert stage.score(20, 2.0) is not None
    assert stage.best == 20


@pytest.mark.parametrize("gone_before", [True, False])
def test_an_evaluator_in_place_of_another_plays_the_newest(stage: Stage, gone_before: bool) -> None:
    """The successor of one that was killed takes its place at once."""
    stage.evaluations.follow(7)
    stage.publish(20)
    if gone_before:
        stage.evaluations.follow(None)
    stage.evaluations.follow(8)
    stage.publish(100)
    assert stage.score(20, 2.0) is not None
    assert stage.best == 20


def test_an_evaluator_whose_second_goes_plays_on(stage: Stage) -> None:
    stage.evaluations.follow(7)
    stage.evaluations.follow(8)
    first = stage.publish(2)
    stage.publish(2)
    stage.evaluations.follow(7)
    stage.publish(100)
    assert stage.score(first, 2.0) is not None
    assert stage.best == first


def test_what_nobody_will_play_is_not_kept(stage: Stage) -> None:
    first = stage.publish()
    stage.publish(50)
    assert len(stage.kept) == MAX_WEIGHTS
    assert stage.kept[:IN_PLAY] == list(range(1, IN_PLAY + 1))
    assert stage.kept[-1] == stage.version
    stage.score(first, 1.0)
    assert stage.kept == [stage.version - 1, stage.version]


def test_without_an_evaluator_no_more_than_so_many_are_awaited(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluations, "MAX_EXPECTED", 30)
    stage.publish(40)
    awaited = [version for version in range(1, 41) if stage.evaluations.expects(version)]
    assert awaited == list(range(11, 41))


def test_a_score_without_its_weights_counts_and_is_not_the_best(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.publish()
    stage.score(1, 5.0)
    stage.publish(50)
    with caplog.at_level(logging.WARNING, "learner"):
        facts = stage.score(2 + IN_PLAY, 9.0)
    assert facts is not None
    assert stage.state.evaluations[-1] == facts
    assert facts["weights_lost"]
    assert "eval_period" in caplog.text
    assert (stage.best, stage.state.best_score) == (1.0, 5.0)


@pytest.mark.parametrize(("version", "epoch"), [(2, EPOCH), (1, EPOCH - 1)])
def test_a_score_that_nobody_waits_for_is_none(stage: Stage, version: int, epoch: int) -> None:
    stage.publish()
    assert stage.score(version, 9.0, epoch) is None
    assert stage.state.evaluations == []


def test_older_versions_are_not_awaited_once_a_newer_one_has_its_score(stage: Stage) -> None:
    stage.publish(3)
    stage.score(2, 1.0)
    assert [stage.evaluations.expects(version) for version in (1, 2, 3)] == [False, False, True]


def test_the_last_score_is_awaited_as_long_as_evaluations_take(stage: Stage) -> None:
    assert stage.evaluations.patience_s(0.0) == FINAL_EVALUATION_S
    stage.publish(31)
    stage.score(1, 1.0)  # 30 s after it was published.
    stage.score(31, 1.0)
    assert stage.evaluations.patience_s(31.0) == FINAL_EVALUATION_S + 90.0
    # The one under way lasts longer already.
    stage.publish()
    assert stage.evaluations.patience_s(82.0) == FINAL_EVALUATION_S + 150.0
    # Perhaps it never ends.
    assert stage.evaluations.patience_s(1e6) == FINAL_EVALUATION_S + MAX_PATIENCE_S


def test_enough_good_games_solve_the_run(tmp_path: Path) -> None:
    stage = Stage(tmp_path, target_return=5.0, confirm_episodes=2)
    stage.state.best_score = 9.0  # Of fewer games.
    stage.publish()
    facts = stage.score(1, 6.0)
    assert (stage.evaluations.reached, stage.evaluations.solved) == (True, True)
    assert facts is not None
    assert facts["solved"]
    # These are the weights that did it.
    assert (stage.best, stage.state.best_score) == (1, 6.0)
