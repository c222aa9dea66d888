"""What a process tells about itself: counters, gauges and histograms by documented names.

Every metric is declared once, in `common/metric_table.py`; `docs/metrics.md` is made from that. A
process keeps its own values: counters and gauges are read from where they live anyway, when they
are asked for, and histograms count in place. So a metric costs the loops nothing, or one `observe`.
Once a second the values leave with a heartbeat (`common/membership.py`); a Prometheus endpoint
shows the same snapshot.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import fmean

import numpy as np
import numpy.typing as npt


class Kind(StrEnum):
    """What may be done with a metric's values."""

    COUNTER = "counter"
    """Only grows while its process lives; its differences mean something."""
    GAUGE = "gauge"
    """A value of now."""
    HISTOGRAM = "histogram"
    """How often values fell into each of some ranges, and their sum; both only grow."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A declaration."""

    name: str
    """Begins with the role; ends in its unit, and in `_total` if it is a counter."""
    kind: Kind
    unit: str
    meaning: str
    healthy: str
    """What a good value looks like."""
    remedy: str
    """What to do about a bad one."""
    bounds: tuple[float, ...] = ()
    """A histogram's: the largest value of each range but the last, which has none."""
    combine: Callable[[Sequence[float]], float] = fmean
    """A gauge's: the run's value out of those of its processes."""
    label: str = ""
    """What a counter's parts differ in. Besides the total, by the counter's name, a process tells
    those of its parts that are not 0, each by NAME.PART; Prometheus gets all parts by this label,
    and no total."""
    parts: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        """Whose processes have it."""
        return next(role for role in ROLES if self.name.startswith(f"{role}_"))


ROLES = ("actor", "evaluator", "inference", "learner", "relay", "replay", "head")
"""First words of names. The head is the learner's process in its other office."""


class Histogram:
    """How often values fell into each range. One thread observes; others may read."""

    __slots__ = ("_bounds", "_counts", "_edges", "_sum", "metric")

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._bounds = list(metric.bounds)
        self._edges = np.array(self._bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def observe_all(self, values: npt.NDArray[np.floating | np.integer]) -> None:
        """Many at once: [N]."""
        places = self._edges.searchsorted(values)
        for place, count in enumerate(np.bincount(places, minlength=len(self._counts)).tolist()):
            self._counts[place] += count
        self._sum += float(values.sum())

    def read(self) -> npt.NDArray[np.float64]:
        """[len(bounds) + 2]: how many values fell into each range, and the sum of all."""
        return np.array([*self._counts, self._sum])


def quantile(metric: Metric, counts: Sequence[float], q: float) -> float | None:
    """The value below which a share q of a histogram's values lie, interpolated within its range;
    None when there are none. Values beyond the last bound count as that bound.

    Args:
        counts: how many values fell into each range, [len(bounds) + 1].
    """
    total = float(sum(counts))
    if total <= 0.0:
        return None
    wanted, below = q * total, 0.0
    low = min(0.0, metric.bounds[0])
    for bound, count in zip(metric.bounds, counts, strict=False):
        if count and below + count >= wanted:
            return low + (bound - low) * max(wanted - below, 0.0) / count
        below, low = below + count, bound
    return metric.bounds[-1]


Values = dict[str, float]
Histograms = dict[str, npt.NDArray[np.float64]]


@dataclass(slots=True)
class Telemetry:
    """One process's metrics.

    Args:
        values: all counters and gauges by name, as they are now.
        histograms: that the process observes.
    """

    values: Callable[[], Values]
    histograms: Sequence[Histogram] = ()
    newest: tuple[Values, Histograms] = field(default=({}, {}), init=False)
    """What `snapshot` gave last; replaced as a whole, for other threads to read."""

    def snapshot(self) -> tuple[Values, Histograms]:
        """Counters and gauges, and histograms, as they are now; for the process's own loop."""
        self.newest = self.values(), {h.metric.name: h.read() for h in self.histograms}
        return self.newest
