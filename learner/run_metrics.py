"""The metrics of a whole run out of those of its members.

Members come and go, and a restarted one counts from zero again. So counters and histograms are
summed by their growth, session by session. Not all begins at zero with a session: a process that
was cut off comes back in a new one with what it has counted so far, and a restarted replay server
takes some counters from its storage. Gauges are those of the members that are there, combined as
they are declared.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from common.metric_table import METRICS, SERIES
from common.metrics import Histograms, Kind, Values, quantile
from learner.admission import MAX_MEMBERS

_COUNTERS = {name for name, metric in SERIES.items() if metric.kind is Kind.COUNTER}
_GAUGES = {name for name, metric in METRICS.items() if metric.kind is Kind.GAUGE}
_SHAPES = {n: (len(m.bounds) + 2,) for n, m in METRICS.items() if m.kind is Kind.HISTOGRAM}
_STORED = ("replay_inserted_transitions_total", "replay_sampled_transitions_total")
"""Counters that a storage keeps, so that the successor of its replay server goes on with them."""

QUANTILES = (0.5, 0.9, 0.99)
MAX_HISTOGRAM = 1e15
"""What a histogram may hold at most: a stranger's numbers must not spoil the sums."""
MAX_VALUE = 1e30
"""The same of counters and gauges, of which a loss may be large."""
MAX_GONE = MAX_MEMBERS
"""Processes that are remembered in case they come back: all members, if all were cut off."""


@dataclass(slots=True)
class _Seen:
    """The last that was heard of a session."""

    values: Values = field(default_factory=dict)
    histograms: Histograms = field(default_factory=dict)
    """The newest that are not yet in the run's."""
    counted: Histograms = field(default_factory=dict)
    """Those that are."""
    token: int | None = None
    """Of its process."""
    storage: int | None = None
    """Number of the replay server that it is."""


class RunMetrics:
    """Add what members send, then take a `record` now and then.

    Members are many and send often, so `add` does next to nothing with histograms: those of all
    sessions are checked and summed together when somebody wants to know.
    """

    def __init__(self) -> None:
        self._sessions: dict[int, _Seen] = {}
        self._gone: OrderedDict[int | None, _Seen] = OrderedDict()
        """By the process's token, whoever left last at the end."""
        self._stored: dict[int | None, Values] = {}
        """What was told last of each storage."""
        self._totals: Values = {}
        self._brought: Values = {}
        self._histograms: Histograms = {}
        self._recorded: Histograms = {}

    def begin(self, session: int, token: int, storage: int | None = None) -> None:
        """A member is taken in. What its process has told before, or its predecessor of what their
        storage keeps, counts no second time.

        Args:
            token: of its process, as in its Join.
            storage: number of a replay server, by which its successor finds the storage; None: it
                is none.
        """
        seen = self._gone.pop(token, None) or _Seen(dict(self._stored.get(storage, {})))
        seen.token, seen.storage = token, storage
        self._sessions[session] = seen

    def add(self, session: int, values: Mapping[str, float], histograms: Histograms) -> Values:
        """A member's newest values. What is not declared or no sound number is left out; returns
        what is not, as it stands now and will stand after later calls."""
        seen = self._sessions.get(session)
        if seen is None:
            seen = self._sessions[session] = _Seen()
        last, totals = seen.values, self._totals
        for name, value in values.items():
            if not -MAX_VALUE <= value <= MAX_VALUE:  # Nor is NaN.
                continue
            if name in _COUNTERS:
                told = last.get(name)
                growth = value - (told or 0.0)
                if growth > 0.0:
                    totals[name] = totals.get(name, 0.0) + growth
                    if told is None:
                        self._brought[name] = self._brought.get(name, 0.0) + growth
                elif name not in totals:
                    totals[name] = 0.0
            elif name not in _GAUGES:
                continue
            last[name] = value
        seen.histograms = {n: counts for n, counts in histograms.items() if _is_one(n, counts)}
        return last

    def forget(self, sessions: Iterable[int]) -> None:
        """Members that are gone: what they counted stays."""
        gone = [seen for s in sessions if (seen := self._sessions.pop(s, None)) is not None]
        self._sum_histograms(gone)
        for seen in gone:
            told = seen.values = {n: v for n, v in seen.values.items() if n in _COUNTERS}
            self._gone[seen.token] = seen
            if seen.storage is not None:
                self._stored[seen.storage] = {n: told[n] for n in _STORED if n in told}
        while len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)

    def values(self) -> Values:
        """Totals of counters, and gauges over the members, by name."""
        gauges: dict[str, list[float]] = {}
        for seen in self._sessions.values():
            for name, value in seen.values.items():
                if name in _GAUGES:
                    gauges.setdefault(name, []).append(value)
        return self._totals | {name: METRICS[name].combine(v) for name, v in gauges.items()}

    @property
    def brought(self) -> Values:
        """What counters' totals have of first reports. Members that come back to a restarted head
        tell all that they have counted since they began: no part of what happens now."""
        return dict(self._brought)

    def record(self) -> Values:
        """`values`, and of each histogram its quantiles since the last record: NAME_p50, _p90,
        _p99. One into which nothing fell since then is left out."""
        found = self.values()
        for name, total in self.histograms.items():
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
        self._sum_histograms(self._sessions.values())
        return self._histograms

    def _sum_histograms(self, sessions: Collection[_Seen]) -> None:
        """Add what came since they were summed last."""
        by_name: dict[str, list[_Seen]] = {}
        for seen in sessions:
            for name in seen.histograms:
                by_name.setdefault(name, []).append(seen)
        for name, those in by_name.items():
            newest = np.array([seen.histograms[name] for seen in those])
            nothing = np.zeros(newest.shape[1])
            growth = newest - np.array([seen.counted.get(name, nothing) for seen in those])
            sound = (np.abs(newest) <= MAX_HISTOGRAM).all(axis=1)
            sound &= (newest[:, :-1] >= 0.0).all(axis=1)
            if not sound.any():
                continue
            total = np.maximum(growth[sound], 0.0).sum(axis=0)
            self._histograms[name] = self._histograms.get(name, nothing) + total
            for seen, is_sound in zip(those, sound.tolist(), strict=True):
                if is_sound:
                    seen.counted[name] = seen.histograms[name]
        for seen in sessions:
            seen.histograms = {}


def _is_one(name: str, counts: npt.NDArray[Any]) -> bool:
    """Whether these have the form of that histogram's counts."""
    shape = _SHAPES.get(name)
    return shape is not None and counts.shape == shape and counts.dtype == np.float64
