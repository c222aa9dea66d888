"""The evaluator: an actor with ε = 0 that writes nothing to replay. Its score is the one we quote.

It evaluates the newest weights that the learner put up for evaluation.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from actor.acting_policy import WAIT_MS, Interrupted
from actor.evaluation import Scoring
from actor.film_thread import FilmThread
from actor.options import MemberOptions
from actor.policy import Policy
from actor.weights import WeightsSubscription
from common.deadlines import Deadlines
from common.manifest import Manifest
from common.membership import Membership
from common.messages import EVALUATION, EvalResult, Weights
from common.metrics import Telemetry, Values


def run_evaluator(
    options: MemberOptions,
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
            with Deadlines(manifest.config, membership.leave_for_hanging_loop, membership.say_busy):
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
        self._policy = Policy(manifest)
        self._weights = WeightsSubscription(
            context, membership.weights_endpoint, EVALUATION, membership.rejections
        )
        self._joins = membership.joins
        welcome = membership.welcome
        self._scoring = Scoring(
            manifest.config, manifest.spec, (welcome.epoch, welcome.incarnation), self._goes_on
        )
        self._done = 0
        self._telemetry = Telemetry(self._values)

    def run(self, ready: Callable[[str], None]) -> None:
        try:
            ready("")
            while self._goes_on():
                weights = self._weights.latest(WAIT_MS)
                if weights is not None and self._policy.take(weights, self._membership.rejections):
                    # What is published meanwhile is old by then.
                    self._weights.pause()
                    self._membership.send(self._evaluate(weights))
                    if self._films is not None:
                        self._films.offer(weights)
                    self._weights.resume()
        except Interrupted:
            pass
        finally:
            if self._films is not None:
                self._films.close()
            self._weights.close()
            self._scoring.close()

    def _goes_on(self) -> bool:
        """A word with the head, also in the middle of an episode; false when this is to end."""
        membership = self._membership
        membership.poll(time.monotonic(), self._telemetry)
        if membership.joins != self._joins:
            self._joins = membership.joins
            self._weights.move(membership.weights_endpoint)
        return not (self._stop.is_set() or membership.stop_requested)

    def _evaluate(self, weights: Weights) -> EvalResult:
        since_s = time.monotonic()
        returns, lengths = self._scoring.score(self._policy.q_values)
        self._done += 1
        return EvalResult(
            self._membership.welcome.session,
            weights.epoch,
            weights.version,
            time.monotonic() - since_s,
            returns,
            lengths,
        )

    def _values(self) -> Values:
        return {
            "evaluator_evaluations_total": self._done,
            "evaluator_weights_version": self._policy.version,
            **self._membership.rejections.values(),
        }
