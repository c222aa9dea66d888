"""Does a learner forget when it is killed? Greedy scores on either side of each kill."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EACH_SIDE = 3
"""Evaluations averaged before a kill, and after it."""
FEWEST = 5
"""Kills with evaluations on either side; fewer say nothing."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Means over the kills."""

    before: float
    after: float
    noise: float
    """Two standard errors of the mean difference."""

    @property
    def lost(self) -> float:
        return self.before - self.after


def scores_of(metrics: Path) -> list[tuple[float, float]]:
    """(time.time(), greedy return) of each evaluation in a run's metrics.jsonl."""
    found = []
    for line in metrics.read_text(errors="replace").splitlines():
        if '"evaluation"' in line:
            try:
                record = json.loads(line)
            except ValueError:
                continue  # Its writer was killed halfway.
            found.append((record["time"], record["evaluation"]["return_mean"]))
    return found


def forgetting(
    scores: Sequence[tuple[float, float]], kills_s: Sequence[float]
) -> Forgetting | None:
    """None: too few kills have evaluations on either side before the kill before and after."""
    pairs = []
    borders = [-math.inf, *sorted(kills_s), math.inf]
    for earlier_s, kill_s, later_s in zip(borders, borders[1:], borders[2:], strict=False):
        before = [score for t, score in scores if earlier_s < t < kill_s][-EACH_SIDE:]
        after = [score for t, score in scores if kill_s < t < later_s][:EACH_SIDE]
        if before and after:
            pairs.append((statistics.fmean(before), statistics.fmean(after)))
    if len(pairs) < FEWEST:
        return None
    differences = [b - a for b, a in pairs]
    noise = 2 * statistics.stdev(differences) / math.sqrt(len(differences))
    return Forgetting(
        statistics.fmean(b for b, _ in pairs), statistics.fmean(a for _, a in pairs), noise
    )
