"""How many actors the run could use, for whoever can start and stop them.

Which side waits for the other says it. If actors waited the share b of their time for the rate
limiter, 1 − b of them would do. If the learner waited the share w of its time for batches, it could
have trained 1/(1 − w) times as much, on as much more experience. Together, of n actors,

    wanted = n · (1 − b) / (1 − w)

An autoscaler that follows this number ends where neither side waits: `samples_per_insert` is what
binds the two. In a run without it nobody waits for the limiter, and only the learner's side speaks.
"""

from collections import deque
from typing import NamedTuple

WINDOW_S = 60.0
SHORTEST_S = 10.0
"""What is seen in less time says too little."""
MOST_WAITING = 0.75
"""Shares above it count as this: the answer moves by a factor of four at most."""


class _Moment(NamedTuple):
    now_s: float
    actor_s: float
    """Time that all actors together have spent in the run."""
    blocked_s: float
    waited_s: float


class ActorsWanted:
    """Tell `see` how it goes, about once a second."""

    def __init__(self) -> None:
        self._moments: deque[_Moment] = deque()

    def see(self, now_s: float, actors: int, blocked_s: float, waited_s: float) -> float | None:
        """Actors wanted; None as long as too little was seen.

        Args:
            now_s: the monotonic clock, in seconds.
            actors: of the run, now.
            blocked_s: time that all actors together waited for the rate limiter, since the start.
            waited_s: time that the learner waited for batches, since the start.
        """
        moments = self._moments
        actor_s = 0.0
        if moments:
            last = moments[-1]
            actor_s = last.actor_s + actors * (now_s - last.now_s)
        moments.append(_Moment(now_s, actor_s, blocked_s, waited_s))
        while now_s - moments[0].now_s > WINDOW_S:
            moments.popleft()
        first = moments[0]
        seen_s, acted_s = now_s - first.now_s, actor_s - first.actor_s
        if seen_s < SHORTEST_S or acted_s <= 0.0:
            return None
        blocked = min((blocked_s - first.blocked_s) / acted_s, MOST_WAITING)
        waited = min((waited_s - first.waited_s) / seen_s, MOST_WAITING)
        return max(acted_s / seen_s * (1.0 - blocked) / (1.0 - waited), 1.0)
