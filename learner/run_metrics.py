"""The metrics of a whole run out of those of its members.

Members come and go, and a restarted one counts from zero again. So counters and histograms are
summed by their growth, session by session; gauges are means over the members that are there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.metric_table import METRICS
from common.metrics import Histograms, Kind, Metric, Values, quantile

QUANTILES = (0.5, 0.9, 0.99)
MAX_HISTOGRAM = 1e15
"""What a histogram may hold at most: a stranger's numbers must not spoil the sums."""


@dataclass(slots=True)
class _Seen:
    """The last that was heard of a session."""

    values: Values = field(default_factory=dict)
    histograms: Histograms = field(default_factory=dict)


class RunMetrics:
    """Add what members send, then take a `record` now and then."""

    def __init__(self) -> None:
        self._sessions: dict[int, _Seen] = {}
        self._totals: Values = {}
        self._histograms: Histograms = {}
        self._recorded: Histograms = {}

    def add(self, session: int, values: Mapping[str, float], histograms: Histograms) -> None:
        """A member's newest values. What is not declared is left out."""
        seen = self._sessions.setdefault(session, _Seen())
        for name, value in values.items():
            metric = METRICS.get(name)
            if metric is None or not np.isfinite(value):
                continue
            if metric.kind is Kind.COUNTER:
                growth = max(value - seen.values.get(name, 0.0), 0.0)
                self._totals[name] = self._totals.get(name, 0.0) + growth
            seen.values[name] = value
        for name, counts in histograms.items():
            metric = METRICS.get(name)
            if metric is None or not _is_one(metric, counts):
                continue
            old = seen.histograms.get(name, np.zeros_like(counts))
            self._histograms[name] = self._histograms.get(name, np.zeros_like(counts)) + np.maximum(
                counts - old, 0.0
            )
            seen.histograms[name] = counts

    def forget(self, sessions: Iterable[int]) -> None:
        """Members that are gone: what they counted stays."""
        for session in sessions:
            self._sessions.pop(session, None)

    def values(self) -> Values:
        """Totals of counters and means of gauges over the members, by name."""
        gauges: dict[str, list[float]] = {}
        for seen in self._sessions.values():
            for name, value in seen.values.items():
                if METRICS[name].kind is Kind.GAUGE:
                    gauges.setdefault(name, []).append(value)
        return self._totals | {name: sum(v) / len(v) for name, v in gauges.items()}

    def record(self) -> Values:
        """`values`, and of each histogram its quantiles since the last record: NAME_p50, _p90,
        _p99. One into which nothing fell since then is left out."""
        found = self.values()
        for name, total in self._histograms.items():
            counts = total - self._recorded.get(name, np.zeros_like(total))
            self._recorded[name] = total
            for q in QUANTILES:
                value = quantile(METRICS[name], counts[:-1].tolist(), q)
                if value is not None:
                    found[f"{name}_p{q * 100:.0f}"] = value
        return found

    @property
    def histograms(self) -> Histograms:
        """Of the whole run, as `common.metrics.Histogram.read`."""
        return self._histograms


def _is_one(metric: Metric, counts: npt.NDArray[np.float64]) -> bool:
    """Whether these can be that histogram's counts."""
    return (
        metric.kind is Kind.HISTOGRAM
        and counts.dtype == np.float64
        and counts.shape == (len(metric.bounds) + 2,)
        and bool((np.abs(counts) <= MAX_HISTOGRAM).all())
        and bool((counts[:-1] >= 0.0).all())
    )
