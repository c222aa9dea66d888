"""Scores of the weights: asked of the evaluator, and taken when they come."""

import logging
import threading
from collections.abc import Callable

from common.health import Health
from common.messages import EVALUATION
from learner.evaluations import FINAL_EVALUATION_S, Evaluations
from learner.peers import Peers
from learner.update import QLearner

WAIT_S = 0.05
"""Between two looks for the last score."""

log = logging.getLogger(__name__)


class Scores:
    """What lies between the evaluations and whoever plays them.

    Args:
        epoch: of this start of the learner.
        wall_s: seconds since the run began.
    """

    def __init__(
        self, peers: Peers, evaluations: Evaluations, epoch: int, wall_s: Callable[[], float]
    ) -> None:
        self._peers, self._evaluations = peers, evaluations
        self._epoch, self._wall_s = epoch, wall_s

    def ask(self, learner: QLearner) -> None:
        """The learner's present weights are to get a score."""
        tensors = learner.snapshot().tensors()
        self._evaluations.expect(learner.updates, tensors, self._wall_s())
        self._peers.publish(EVALUATION, self._epoch, learner.updates, tensors)

    def take(self) -> None:
        """Those that came, until one solves the task."""
        self._evaluations.follow(self._peers.evaluator)
        for result in self._peers.take_evaluations():
            facts = self._evaluations.take(result, self._wall_s())
            if facts is not None:
                self._peers.note_score(facts)
            if self._evaluations.solved:
                return

    def wait_for_last(self, learner: QLearner, stop: threading.Event, health: Health) -> None:
        """The budget is spent: the last weights get their score too, if anybody can give it."""
        version = learner.updates
        if self._peers.evaluator is None or self._evaluations.newest == version:
            return
        if not self._evaluations.expects(version):
            self.ask(learner)
        since_s = there_s = self._wall_s()
        patience_s = self._evaluations.patience_s(since_s)
        while self._evaluations.expects(version):
            now_s = self._wall_s()
            if self._peers.evaluator is not None:
                there_s = now_s
            if now_s - since_s > patience_s or now_s - there_s > FINAL_EVALUATION_S:
                log.warning("no score of the last weights within %.0f s", now_s - since_s)
                return
            if stop.wait(WAIT_S):
                return
            health.turned("training")
            self.take()
