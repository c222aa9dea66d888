"""Versions under evaluation, and what their results mean for the run."""

import logging
from collections import OrderedDict
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

MAX_EVALUATING = 16
"""Versions under evaluation whose weights are kept."""

log = logging.getLogger(__name__)


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
        self._expected: OrderedDict[int, NamedTensors] = OrderedDict()
        self._unsaved_best: tuple[NamedTensors, dict[str, Any]] | None = None
        self.reached = False
        """Whether the newest score reached the target."""
        self.solved = False
        """... and is believed."""

    def expect(self, version: int, tensors: NamedTensors) -> None:
        """A score of these weights is to come."""
        self._expected[version] = tensors
        while len(self._expected) > MAX_EVALUATING:
            self._expected.popitem(last=False)

    def expects(self, version: int) -> bool:
        return version in self._expected

    def take(self, result: EvalResult, wall_s: float) -> dict[str, Any] | None:
        """A score came; its facts, or None when nobody waits for it (any more).

        Args:
            wall_s: since the run began, in seconds.
        """
        tensors = self._expected.get(result.version)
        if result.epoch != self._state.epoch or tensors is None:
            return None
        while self._expected and next(iter(self._expected)) <= result.version:
            self._expected.popitem(last=False)
        state, config = self._state, self._config
        facts: dict[str, Any] = {
            "env_steps": state.env_steps,
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
        if state.best_score is None or score >= state.best_score or self.solved:
            state.best_score = score
            self._unsaved_best = tensors, facts
            try:
                self.save_best()
            except CheckpointError as error:
                log.error("%s", error)
        self._counters.best_score = state.best_score
        return facts

    def save_best(self) -> None:
        """Write the best weights, if that could not be done when their score came.

        Raises CheckpointError when it cannot be done now either.
        """
        if self._unsaved_best is not None:
            tensors, facts = self._unsaved_best
            weights = {name: torch.from_numpy(array) for name, array in tensors.items()}
            save_best(self._checkpoints, weights, self._spec, facts)
            self._unsaved_best = None
