"""Versions under evaluation, and what their results mean for the run."""

import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.config import Config
from common.errors import CheckpointError
from common.messages import EvalResult, NamedTensors
from common.spec import EnvSpec
from learner.checkpoint import RunState, save_best
from learner.judge import judge
from learner.status import LearnerCounters

MAX_WEIGHTS = 16
"""Versions that wait for their score and whose weights are kept."""
IN_PLAY = 4
"""So many of these are the oldest: the two that were the newest when the evaluator had played its
last game, and two that came right after."""
MAX_EXPECTED = 10_000
"""Versions that wait for their score: without an evaluator none of them ever gets one."""
FINAL_EVALUATION_S = 60.0
"""How long the score of the last weights may take at least."""
MAX_PATIENCE_S = 1_800.0
"""... and how much longer at most: a game may never end."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Expected:
    """A version whose score is to come."""

    env_steps: int
    """When it was published."""
    since_s: float
    """... in seconds since the run began."""
    tensors: NamedTensors | None
    """None: not kept any more."""


class Evaluations:
    """Keeps the weights that an evaluator plays with until its score is there, and the best of
    them for good.

    Args:
        state: its evaluations and best score are kept up to date.
        checkpoints: directory for the best weights.
    """

    def __init__(
        self,
        config: Config,
        spec: EnvSpec,
        state: RunState,
        counters: LearnerCounters,
        checkpoints: Path,
    ) -> None:
        self._config, self._spec = config, spec
        self._state, self._counters, self._checkpoints = state, counters, checkpoints
        self._expected: OrderedDict[int, _Expected] = OrderedDict()
        self._longest_s = 0.0
        """From a version to its score."""
        self._evaluators: set[int] = set()
        """Sessions of those that there were."""
        self._unsaved_best: tuple[NamedTensors, dict[str, Any]] | None = None
        self.reached = False
        """Whether the newest score reached the target."""
        self.solved = False
        """... and is believed."""

    def expect(self, version: int, tensors: NamedTensors, wall_s: float) -> None:
        """A score of these weights is to come.

        Args:
            wall_s: since the run began, in seconds.
        """
        self._expected[version] = _Expected(self._state.env_steps, wall_s, tensors)
        kept = [expected for expected in self._expected.values() if expected.tensors is not None]
        if len(kept) > MAX_WEIGHTS:
            kept[IN_PLAY].tensors = None
        if len(self._expected) > MAX_EXPECTED:
            self._expected.popitem(last=False)

    def expects(self, version: int) -> bool:
        return version in self._expected

    @property
    def newest(self) -> float | None:
        """The version whose score came last, in whatever part of the run."""
        return self._state.evaluations[-1]["updates"] if self._state.evaluations else None

    def patience_s(self, wall_s: float) -> float:
        """How long to wait for the score of the last weights, in seconds: an evaluator plays to the
        end what it has begun, and then games that may be longer than any before."""
        begun_s = next((expected.since_s for expected in self._expected.values()), wall_s)
        longer_s = 3.0 * max(self._longest_s, wall_s - begun_s)
        return FINAL_EVALUATION_S + min(longer_s, MAX_PATIENCE_S)

    def follow(self, evaluator: int | None) -> None:
        """The session of the evaluator that came last, if there is one: who comes, alone or in
        place of one that died, begins with the newest version."""
        if evaluator is not None and evaluator not in self._evaluators:
            self._evaluators.add(evaluator)
            self._pass_over_older()

    def _pass_over_older(self) -> None:
        """An evaluator takes the newest version next, or one that comes right after: the weights of
        those before go."""
        for passed_over in list(self._expected.values())[: -IN_PLAY // 2]:
            passed_over.tensors = None

    def take(self, result: EvalResult, wall_s: float) -> dict[str, Any] | None:
        """A score came; its facts, or None when nobody waits for it (any more).

        Args:
            wall_s: since the run began, in seconds.
        """
        expected = self._expected.get(result.version)
        if result.epoch != self._state.epoch or expected is None:
            return None
        while self._expected and next(iter(self._expected)) <= result.version:
            self._expected.popitem(last=False)
        self._pass_over_older()
        self._longest_s = max(self._longest_s, wall_s - expected.since_s)
        state, config = self._state, self._config
        facts: dict[str, Any] = {
            "env_steps": expected.env_steps,
            "updates": result.version,
            "wall_s": wall_s,
            "return_mean": float(result.episode_return.mean()),
            "return_std": float(result.episode_return.std()),
            "episodes": len(result.episode_return),
        }
        state.note_evaluation(facts)
        score = facts["return_mean"]
        self._counters.score = score
        self._counters.evaluations = state.evaluated
        log.info(
            "greedy return %.1f ± %.1f over %d episodes, version %d",
            score, facts["return_std"], facts["episodes"], result.version,
        )  # fmt: skip
        self.reached, self.solved = judge(
            result.episode_return, config.target_return, config.confirm_episodes
        )
        if self.solved:
            facts["solved"] = True
        if state.best_score is None or score >= state.best_score or self.solved:
            self._note_best(expected.tensors, facts)
        self._counters.best_score = state.best_score
        return facts

    def _note_best(self, tensors: NamedTensors | None, facts: dict[str, Any]) -> None:
        if tensors is None:
            log.warning(
                "the weights of version %d scored best and are not kept any more: too many were "
                "published since; raise eval_period or lower eval_episodes",
                facts["updates"],
            )
            facts["weights_lost"] = True
            return
        self._state.best_score = facts["return_mean"]
        self._unsaved_best = tensors, facts
        try:
            self.save_best()
        except CheckpointError as error:
            log.error("%s", error)

    def save_best(self) -> None:
        """Write the best weights, if that could not be done when their score came.

        Raises CheckpointError when it cannot be done now either.
        """
        if self._unsaved_best is not None:
            tensors, facts = self._unsaved_best
            weights = {name: torch.from_numpy(array) for name, array in tensors.items()}
            save_best(self._checkpoints, weights, self._spec, facts)
            self._unsaved_best = None
