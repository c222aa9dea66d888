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
from learner.evaluations import FINAL_EVALUATION_S, Evaluations
from learner.scores import Scores
from learner.status import LearnerCounters
from tests.unit.learner.test_checkpoint import make_learner, train

EPOCH = 1
VERSION = 2


class Playing:
    """Peers of which an evaluator is there as often as it is looked for."""

    def __init__(self, looks: int, answers: bool) -> None:
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
        if not (self._answers and self.asked):
            return []
        returns, lengths = np.full(2, 5.0, np.float32), np.full(2, 5, np.int32)
        return [EvalResult(1, EPOCH, VERSION, 0.5, returns, lengths)]

    def note_score(self, facts: dict[str, Any]) -> None:
        self.noted.append(facts)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "WAIT_S", 0.0)


class Ending:
    """A run of two updates whose budget is spent; each look at its clock takes a second."""

    def __init__(self, tmp_path: Path, looks: int, answers: bool = False) -> None:
        self.peers = Playing(looks, answers)
        self.state = RunState("run", epoch=EPOCH)
        spec = EnvSpec((4,), "<f4", 3)
        self.evaluations = Evaluations(Config(), spec, self.state, LearnerCounters(), tmp_path)
        peers: Any = self.peers
        self.scores = Scores(peers, self.evaluations, EPOCH, map(float, itertools.count()).__next__)
        self.stop = threading.Event()
        self.learner = make_learner()
        train(self.learner, VERSION)

    def wait(self) -> None:
        self.scores.wait_for_last(self.learner, self.stop, Health())


def test_the_last_weights_get_their_score(tmp_path: Path) -> None:
    ending = Ending(tmp_path, looks=10, answers=True)
    ending.wait()
    assert ending.peers.asked == [(EVALUATION, EPOCH, VERSION)]
    assert [facts["updates"] for facts in ending.peers.noted] == [VERSION]
    # It has one now.
    ending.wait()
    assert ending.peers.asked == [(EVALUATION, EPOCH, VERSION)]


def test_one_that_was_asked_for_is_awaited_only(tmp_path: Path) -> None:
    ending = Ending(tmp_path, looks=10, answers=True)
    ending.scores.ask(ending.learner)
    ending.wait()
    assert len(ending.peers.asked) == len(ending.peers.noted) == 1


def test_without_an_evaluator_nobody_is_asked(tmp_path: Path) -> None:
    ending = Ending(tmp_path, looks=0)
    ending.wait()
    assert ending.peers.asked == []


@pytest.mark.parametrize("looks", [1, 100_000])
def test_an_evaluator_that_went_or_says_nothing_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, looks: int
) -> None:
    ending = Ending(tmp_path, looks)
    ending.wait()
    (line,) = caplog.messages
    assert line.startswith("no score of the last weights within ")
    assert float(line.split()[-2]) > FINAL_EVALUATION_S


def test_a_stop_ends_the_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ending = Ending(tmp_path, looks=10)
    ending.stop.set()
    ending.wait()
    assert (caplog.messages, ending.peers.noted) == ([], [])
