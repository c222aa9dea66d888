"""How many actors a run could use: a number for whoever starts and stops them.

Pure arithmetic on who waits for whom. An autoscaler (Kubernetes' HPA, Ray's) follows the metric
`head_wanted_actors`; the head itself starts nobody.
"""

import math
from dataclasses import dataclass

PERIOD_S = 30.0
"""Waiting times are compared over so long at least."""
DEAD_BAND = 0.1
"""Share of the actors by which the wish must differ before it is one: no swinging to and fro."""


def wanted_actors(actors: int, actors_waited: float, learner_waited: float) -> int:
    """A number of actors with which neither they nor the learner would wait.

    A learner that waits for a share w of its time runs at 1 − w of its speed, so it could use
    1 / (1 − w) times the actors; at most twice as many are asked for at once. Actors that wait for
    a share b of theirs do what 1 − b times as many would do without waiting.

    Args:
        actors: that are there.
        actors_waited: mean share of their time in which they waited for the replay, 0 to 1.
        learner_waited: share of its time in which the learner waited for experience, 0 to 1.
    """
    learner_waited = min(max(learner_waited, 0.0), 1.0)
    actors_waited = min(max(actors_waited, 0.0), 1.0)
    if learner_waited >= actors_waited:
        change = 1.0 / max(1.0 - learner_waited, 0.5)
    else:
        change = 1.0 - actors_waited
    if abs(change - 1.0) <= DEAD_BAND:
        return actors
    # What is not wanted for sure stays; floating point must not ask for one more.
    return max(math.ceil(actors * change - 1e-9), 1)


@dataclass(slots=True)
class ActorsWanted:
    """Follows the waiting times of a run."""

    wanted: int = 0
    """0: nothing is known yet."""
    _since_s: float = -1.0
    _actors_waited_s: float = 0.0
    _learner_waited_s: float = 0.0

    def observe(
        self, now_s: float, actors: int, actors_waited_s: float, learner_waited_s: float
    ) -> None:
        """Take the totals of now.

        Args:
            now_s: the monotonic clock.
            actors: that are there.
            actors_waited_s: of all actors together, since the run began.
            learner_waited_s: since the learner began.
        """
        if self._since_s < 0.0 or actors == 0:
            self._begin(now_s, actors_waited_s, learner_waited_s)
            self.wanted = max(self.wanted, actors)
            return
        elapsed_s = now_s - self._since_s
        if elapsed_s < PERIOD_S:
            return
        self.wanted = wanted_actors(
            actors,
            (actors_waited_s - self._actors_waited_s) / (elapsed_s * actors),
            (learner_waited_s - self._learner_waited_s) / elapsed_s,
        )
        self._begin(now_s, actors_waited_s, learner_waited_s)

    def _begin(self, now_s: float, actors_waited_s: float, learner_waited_s: float) -> None:
        self._since_s = now_s
        self._actors_waited_s, self._learner_waited_s = actors_waited_s, learner_waited_s
