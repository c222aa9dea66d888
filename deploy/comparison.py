"""Several runs as a few curves: who belongs together, and what the runs of a curve say together.

Numbers only; `deploy/comparison_figure.py` draws them.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from common.config import Config
from deploy.history import History

Statistic = Literal["mean", "iqm"]
Floats = npt.NDArray[np.float64]
Compute = Callable[..., Floats]
"""Takes values and the axis to reduce."""

GRID_POINTS = 201
RESAMPLES = 2_000
CONFIDENCE = 0.95
MAX_NAMED = 3
"""Keys in a curve's name, as long as they tell it from all others."""


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that are drawn as one curve."""

    label: str
    histories: list[History]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What R runs say together at each of G places. Not a number: nothing is known there."""

    x: Floats
    """[G], ascending."""
    centre: Floats
    """[G], the statistic over the runs that are there."""
    low: Floats
    high: Floats
    """[G], bounds of its 95% confidence; only where there are two runs at least."""
    runs: npt.NDArray[np.int64]
    """[G], how many there are: runs end at different places."""


def group_runs(histories: Sequence[History], keys: Sequence[str] = ()) -> list[Group]:
    """Runs that agree in these keys of the configuration, or in all but the seed, are together.

    A run whose configuration cannot be read is alone. A label says what differs between the groups.
    """
    keys = keys or [key for key in Config.model_fields if key != "seed"]
    groups: dict[tuple[str, ...], list[History]] = {}
    for history in histories:
        config = history.config
        values = () if config is None else tuple(_shown(getattr(config, key)) for key in keys)
        groups.setdefault(values or (str(history.run_dir),), []).append(history)
    known = [values for values, members in groups.items() if members[0].config is not None]
    named = _telling(known)
    return [
        Group(_label(values, members, keys, named, len(known)), members)
        for values, members in groups.items()
    ]


def aggregate(
    curves: Sequence[tuple[Floats, Floats]], statistic: Statistic, points: int = GRID_POINTS
) -> Aggregate:
    """The statistic over runs, on a grid from the first evaluation of any to the last of any.

    Scores are interpolated between a run's evaluations and never continued beyond them. The band is
    a percentile bootstrap over whole runs (Efron 1979). iqm is the interquartile mean, recommended
    by Agarwal et al. (2021, section 4.3): the mean without the lowest and highest quarter of the
    runs, rounded down to whole runs, so that of three none are left out.

    Args:
        curves: of each run x, ascending, and scores, [evaluations] both, at least one.
    """
    first, last = min(x[0] for x, _ in curves), max(x[-1] for x, _ in curves)
    grid = np.linspace(first, last, points if last > first else 1)
    scores = np.stack([np.interp(grid, x, y, left=np.nan, right=np.nan) for x, y in curves])
    there = ~np.isnan(scores)
    centre, low, high = (np.full(len(grid), np.nan) for _ in range(3))
    compute: Compute = _interquartile_mean if statistic == "iqm" else np.mean
    # Where the same runs are there they are drawn together, as curves.
    for present in np.unique(there, axis=1).T:
        at = (there == present[:, None]).all(axis=0)
        values = scores[np.ix_(present, at)]
        if len(values) > 0:
            centre[at] = compute(values, axis=0)
        if len(values) > 1:
            low[at], high[at] = _bootstrap(values, compute)
    return Aggregate(grid, centre, low, high, there.sum(axis=0))


def _bootstrap(values: Floats, compute: Compute) -> tuple[Floats, Floats]:
    """Bounds, [points] each, of a statistic of [runs, points]."""
    interval = stats.bootstrap(
        (values,),
        compute,
        n_resamples=RESAMPLES,
        batch=max(10_000_000 // values.size, 1),
        axis=0,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return interval.low, interval.high


def _interquartile_mean(values: Floats, axis: int) -> Floats:
    trimmed: Floats = stats.trim_mean(values, 0.25, axis=axis)
    return trimmed


def _telling(known: Sequence[tuple[str, ...]]) -> list[int]:
    """Which places of these tuples to name: all that differ or, where those are many, as few of
    them as tell each tuple from all others."""
    differing = [i for i, values in enumerate(zip(*known, strict=True)) if len(set(values)) > 1]
    if len(differing) <= MAX_NAMED:
        return differing
    for count in range(1, MAX_NAMED + 1):
        for chosen in itertools.combinations(differing, count):
            if len({tuple(values[i] for i in chosen) for values in known}) == len(known):
                return list(chosen)
    return differing


def _label(
    values: tuple[str, ...],
    members: Sequence[History],
    keys: Sequence[str],
    named: Sequence[int],
    known: int,
) -> str:
    first = members[0]
    if first.config is None:
        name = str(first.run_dir)
    elif known == 1:
        name = first.config.env
    else:
        name = ", ".join(f"{keys[i]}={values[i]}" for i in named)
    return name if len(members) == 1 else f"{name} ({len(members)} runs)"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
