"""The evaluator: an actor with ε = 0 that writes nothing to replay. Its score is the one we quote.

It evaluates the newest weights that the learner put up for evaluation. A mean that reaches the
target is the best of several tries, so it is not believed: the same weights must reach the target
again on fresh episodes, and that second mean is the score.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zmq

from actor.acting_policy import WAIT_MS, Interrupted
from actor.evaluation import Episodes, GreedyEvaluation
from actor.film_thread import FilmThread
from actor.loop import ActorOptions
from actor.policy import Policy
from actor.weights import WeightsSubscription
from common.manifest import Manifest
from common.membership import Membership
from common.messages import EVALUATION, EvalResult, Weights
from common.metrics import Telemetry, Values


def run_evaluator(
    options: ActorOptions,
    context: zmq.Context[zmq.Socket[bytes]],
    stop: threading.Event,
    ready: Callable[[str], None],
) -> None:
    """Evaluate until the head says stop or `stop` is set."""
    with Membership(
        context,
        options.connect,
        "evaluator",
        preferred_number=options.number,
        metrics=options.metrics,
    ) as membership:
        manifest = membership.join(time.monotonic, stop, options.join_timeout_s)
        if manifest is not None:
            _Evaluator(context, membership, manifest, stop, options.videos).run(ready)


class _Evaluator:
    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        membership: Membership,
        manifest: Manifest,
        stop: threading.Event,
        videos: Path | None,
    ) -> None:
        self._stop = stop
        self._films = FilmThread(manifest, videos) if videos is not None else None
        self._membership = membership
        self._manifest = manifest
        self._policy = Policy(manifest)
        self._weights = WeightsSubscription(context, membership.weights_endpoint, EVALUATION)
        self._joins = membership.joins
        self._seeds = np.random.SeedSequence(
            [manifest.config.seed, 2, membership.welcome.epoch, membership.welcome.incarnation]
        )
        self._evaluations: dict[int, GreedyEvaluation] = {}
        self._done = 0
        self._telemetry = Telemetry(self._values)

    def run(self, ready: Callable[[str], None]) -> None:
        try:
            ready("")
            while self._goes_on():
                weights = self._weights.latest(WAIT_MS)
                if weights is not None:
                    self._policy.load(weights)
                    self._membership.send(self._evaluate(weights))
                    if self._films is not None:
                        self._films.offer(weights)
                    self._weights.ask_again()
        except Interrupted:
            pass
        finally:
            if self._films is not None:
                self._films.close()
            self._weights.close()
            for evaluation in self._evaluations.values():
                evaluation.close()

    def _goes_on(self) -> bool:
        """A word with the head, also in the middle of an episode; false when this is to end."""
        membership = self._membership
        membership.poll(time.monotonic(), self._telemetry)
        if membership.joins != self._joins:
            self._joins = membership.joins
            self._weights.move(membership.weights_endpoint)
        return not (self._stop.is_set() or membership.stop_requested)

    def _evaluate(self, weights: Weights) -> EvalResult:
        config = self._manifest.config
        since_s = time.monotonic()
        returns, lengths = self._episodes(config.eval_episodes)
        target = config.target_return
        if config.confirm_episodes and target is not None and returns.mean() >= target:
            returns, lengths = self._episodes(config.confirm_episodes)
        self._done += 1
        return EvalResult(
            self._membership.welcome.session,
            weights.epoch,
            weights.version,
            time.monotonic() - since_s,
            returns,
            lengths,
        )

    def _episodes(self, episodes: int) -> Episodes:
        # Seeded once: ale-py's environments load their game again with every seed.
        seed = None
        if episodes not in self._evaluations:
            self._evaluations[episodes] = GreedyEvaluation(
                self._manifest.config, self._manifest.spec, episodes
            )
            seed = int(self._seeds.spawn(1)[0].generate_state(1)[0] >> 1)
        return self._evaluations[episodes].run(self._policy.q_values, seed, self._goes_on)

    def _values(self) -> Values:
        return {
            "evaluator_evaluations_total": self._done,
            "evaluator_weights_version": self._policy.version,
        }
