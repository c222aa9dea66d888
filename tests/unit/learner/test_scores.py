"""The score of the last weights: asked for once, and awaited as long as somebody may give it."""

import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config import Config
from common.health import Health
from common.messages import EVALUATION, EvalResult, NamedTensors
from common.spec import EnvSpec
from learner import scores
from learner.checkpoint import RunState
from learner.evaluations import Evaluations
from learner.scores import Scores
from learner.status import LearnerCounters
from tests.unit.learner.test_checkpoint import make_learner, train

EPOCH = 1
VERSION = 2


def result_of(version: int) -> EvalResult:
    returns, lengths = np.full(2, 5.0, np.float32), np.full(2, 5, np.int32)
    return EvalResult(1, EPOCH, version, 0.5, returns, lengths)


class Playing:
    """Peers of which an evaluator is there as often as it is looked for."""

    def __init__(self, looks: int, answers: int) -> None:
        self._looks, self._answers = looks, answers
        self.asked: list[tuple[bytes, int, int]] = []
        self.noted: list[dict[str, Any]] = []

    @property
    def evaluator(self) -> int | None:
        self._looks -= 1
        return 7 if self._looks >= 0 else None

    def publish(self, topic: bytes, epoch: int, version: int, tensors: NamedTensors) -> None:
        self.asked.append((topic, epoch, version))

    def take_evaluations(self) -> list[EvalResult]:
        """Of the version that was asked for, and of those after it."""
        if not self.asked:
            return []
        return [result_of(VERSION + later) for later in range(self._answers)]

    def note_score(self, facts: dict[str, Any]) -> None:
        self.noted.append(facts)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "WAIT_S", 0.0)


class Ending:
    """A run of two updates whose budget is spent; each look at its clock takes a second."""

    def __init__(self, tmp_path: Path, looks: int, answers: int = 0, **values: Any) -> None:
        self.peers = Playing(looks, answers)
        state, spec = RunState("run", epoch=EPOCH), EnvSpec((4,), "<f4", 3)
        config = Config(**values)
        self.evaluations = Evaluations(config, spec, state, LearnerCounters(), tmp_path)
        peers: Any = self.peers
        self.clock = map(float, itertools.count())
        self.scores = Scores(peers, self.evaluations, EPOCH, self.clock.__next__)
        self.stop, self.health = threading.Event(), Health(lambda: 0.0)
        self.learner = make_learner()
        train(self.learner, VERSION)

    def wait(self) -> None:
        self.scores.wait_for_last(self.learner, self.stop, self.health)


def test_the_last_weights_get_their_score(tmp_path: Path) -> None:
    ending = Ending(tmp_path, looks=10, answers=1)
    ending.wait()
    assert ending.peers.asked == [(EVALUATION, EPOCH, VERSION)]
    assert [facts["updates"] for facts in ending.peers.noted] == [VERSION]
    assert "training 0.0 s ago" in ending.health.answer("/livez")[1]
    # It has one now.
    ending.wait()
    assert ending.peers.asked == [(EVALUATION, EPOCH, VERSION)]


def test_one_that_was_asked_for_is_awaited_only(tmp_path: Path) -> None:
    ending = Ending(tmp_path, looks=10, answers=1)
    ending.scores.ask(ending.learner)
    ending.wait()
    assert len(ending.peers.asked) == len(ending.peers.noted) == 1


def test_without_an_evaluator_nobody_is_asked(tmp_path: Path) -> None:
    ending = Ending(tmp_path, looks=0)
    ending.wait()
    assert ending.peers.asked == []


@pytest.mark.parametrize(("looks", "waited_s"), [(1, 61.0), (100_000, 64.0)])
def test_an_evaluator_that_went_or_says_nothing_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, looks: int, waited_s: float
) -> None:
    """Asked for a second before: 60 s for one that is gone, 60 + 3 · 1 for one that is there."""
    ending = Ending(tmp_path, looks)
    ending.wait()
    assert caplog.messages == [f"no score of the last weights within {waited_s:.0f} s"]


@pytest.mark.parametrize(("looks", "waited_s"), [(1, 61.0), (11, 66.0), (100_000, 361.0)])
def test_one_that_is_still_playing_is_awaited_longer_than_one_that_went(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, looks: int, waited_s: float
) -> None:
    """The oldest score that is missing was asked for 100 s before: 60 + 3 · 100 s for the last."""
    ending = Ending(tmp_path, looks)
    ending.evaluations.expect(1, {}, -97.0)
    ending.scores.ask(ending.learner)
    assert [next(ending.clock) for _ in range(2)] == [1.0, 2.0]
    ending.wait()
    assert caplog.messages == [f"no score of the last weights within {waited_s:.0f} s"]


def test_nothing_is_taken_behind_the_score_that_solves_the_task(tmp_path: Path) -> None:
    ending = Ending(tmp_path, looks=10, answers=2, target_return=5.0, confirm_episodes=2)
    ending.scores.ask(ending.learner)
    ending.evaluations.expect(VERSION + 1, {}, 0.0)
    ending.scores.take()
    assert [facts["updates"] for facts in ending.peers.noted] == [VERSION]


@pytest.mark.parametrize(("looks", "lost"), [(1, True), (0, False)])
def test_whoever_comes_to_evaluate_begins_with_the_newest(
    tmp_path: Path, looks: int, lost: bool
) -> None:
    ending = Ending(tmp_path, looks)
    for version in range(1, 6):
        ending.evaluations.expect(version, {}, 0.0)
    ending.scores.take()
    facts = ending.evaluations.take(result_of(1), 0.0)
    assert facts is not None
    assert facts.get("weights_lost", False) is lost


def test_a_stop_ends_the_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ending = Ending(tmp_path, looks=10)
    ending.stop.set()
    ending.wait()
    assert (caplog.messages, ending.peers.noted) == ([], [])
