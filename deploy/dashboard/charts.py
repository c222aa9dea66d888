"""Curves and histograms of a run, as options of ECharts (https://echarts.apache.org/en/option.html).

Colours are variables of the page's style, so that a chart follows light and dark by itself.
"""

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Any

from common.metric_table import METRICS
from deploy.dashboard.ladder import Rung
from deploy.dashboard.observatory import View
from deploy.history import Line

MAX_POINTS = 300
"""Of a curve: more than a screen tells apart only cost time."""

Options = dict[str, Any]
Point = tuple[float, float]

FIRST, SECOND, QUIET = "var(--first)", "var(--second)", "var(--quiet)"


class Axis(StrEnum):
    """What curves are drawn over."""

    ENV_STEPS = "env steps"
    WALL_CLOCK = "wall clock"

    @property
    def field(self) -> str:
        """Of a line of metrics.jsonl."""
        return "env_steps" if self is Axis.ENV_STEPS else "wall_s"


COMPACT = "v => Intl.NumberFormat('en', {notation: 'compact'}).format(v)"
SECONDS = (
    "v => v < 120 ? v + ' s' : v < 7200 ? (v / 60).toFixed(0) + ' min'"
    " : (v / 3600).toFixed(1) + ' h'"
)
PRECISE = "v => v == null ? '–' : Number(v).toPrecision(4)"


# --------------------------------------------------------------------------------- over the run


def score(view: View, other: View | None, axis: Axis) -> Options:
    """Greedy evaluations with a band of one standard deviation, and the training return."""
    series = _score_series(view, axis, FIRST, view.run.name)
    if other is not None:
        series += _score_series(other, axis, SECOND, other.run.name)
    target = view.config.target_return if view.config else None
    series[0]["markLine"] = {
        "silent": True,
        "symbol": "none",
        "label": {"formatter": "target {c}", "position": "insideStartTop"},
        "lineStyle": {"color": QUIET, "type": "dashed"},
        "data": [] if target is None else [{"yAxis": target}],
    }
    return _over(axis) | {"series": series}


def _score_series(view: View, axis: Axis, colour: str, name: str) -> list[Options]:
    evaluations = _every(view.history.evaluations)
    places = [e.get(axis.field) for e in evaluations]
    means = [e["return_mean"] for e in evaluations]
    spreads = [e.get("return_std", 0.0) for e in evaluations]
    low = [(x, m - s) for x, m, s in zip(places, means, spreads, strict=True)]
    high = [(x, 2 * s) for x, s in zip(places, spreads, strict=True)]
    band = {"stack": f"band {name}", "stackStrategy": "all", "tooltip": {"show": False}}
    return [
        _line(f"{name}, greedy", list(zip(places, means, strict=True)), colour, width=2.5)
        | {"showSymbol": len(means) < 60, "symbolSize": 5},
        _line(f"{name}, training", curve(view.history.lines, "head_training_return", axis), colour)
        | {"lineStyle": {"width": 1.2, "opacity": 0.55, "type": "solid"}},
        _line("", low, colour) | band | {"lineStyle": {"opacity": 0}},
        _line("", high, colour)
        | band
        | {"lineStyle": {"opacity": 0}, "areaStyle": {"color": colour, "opacity": 0.12}},
    ]


def column(view: View, other: View | None, axis: Axis, name: str) -> Options:
    """One metric of metrics.jsonl."""
    series = [_line(view.run.name, curve(view.history.lines, name, axis), FIRST)]
    if other is not None:
        series.append(_line(other.run.name, curve(other.history.lines, name, axis), SECOND))
    return _over(axis) | {"series": series}


def curve(lines: Sequence[Line], name: str, axis: Axis) -> list[Point]:
    """(place, value) of the lines that have it; of more than `MAX_POINTS`, means of neighbours."""
    points = [
        (float(line[axis.field]), float(line[name]))
        for line in lines
        if isinstance(line.get(name), int | float)
    ]
    if len(points) <= MAX_POINTS:
        return points
    edges = [round(i * len(points) / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    return [_mean(points[begin:end]) for begin, end in pairwise(edges)]


def _mean(points: Sequence[Point]) -> Point:
    return (
        sum(x for x, _ in points) / len(points),
        sum(y for _, y in points) / len(points),
    )


def _every(evaluations: Sequence[Line]) -> list[Line]:
    """At most `MAX_POINTS` of them, the newest always."""
    stride = -(-len(evaluations) // MAX_POINTS) or 1
    return list(reversed(evaluations[::-1][::stride]))


# ------------------------------------------------------------------------------------- of a moment


def ladder(rungs: Sequence[Rung]) -> Options:
    """Each environment's ε against what it earns."""
    earned = [rung for rung in rungs if rung.episode_return is not None]
    # A logarithmic axis has no place for 0.
    logarithmic = all(rung.epsilon > 0 for rung in earned)
    points = [
        {
            "value": [rung.epsilon, rung.episode_return],
            "name": f"actor {rung.actor}" + ("" if rung.env is None else f", env {rung.env}"),
        }
        for rung in earned
    ]
    x = _axis("log" if logarithmic else "value") | {"inverse": True}
    x["axisLabel"] = {":formatter": "v => Number(v.toPrecision(2))"}
    return _BASE | {
        "xAxis": x,
        "yAxis": _axis("value") | {"scale": True},
        "tooltip": {
            **_TOOLTIP,
            "trigger": "item",
            ":formatter": "p => p.name + '<br>ε ' + p.value[0].toPrecision(3) + "
            "', return ' + p.value[1].toPrecision(4)",
        },
        "series": [
            {
                "type": "scatter",
                "data": points,
                "symbolSize": 8,
                "itemStyle": {"color": FIRST, "opacity": 0.75},
                "emphasis": {"disabled": True},
            }
        ],
    }


def histogram(name: str, counts: Sequence[float] | None, other: Sequence[float] | None) -> Options:
    """Shares of a histogram's values in each of its ranges.

    Args:
        counts, other: as `common.metrics.Histogram.read`; None: there are none (of a second run).
    """
    bounds = METRICS[name].bounds
    labels = [f"≤ {bound:g}" for bound in bounds] + [f"> {bounds[-1]:g}"]
    kept = [(FIRST, counts)] + ([] if other is None else [(SECOND, other)])
    return _BASE | {
        "xAxis": _axis("category") | {"data": labels},
        "yAxis": _axis("value") | {"axisLabel": {"formatter": "{value}%"}},
        "tooltip": {**_TOOLTIP, "trigger": "axis", ":valueFormatter": "v => v.toFixed(1) + '%'"},
        "series": [
            {
                "type": "bar",
                "data": shares(values, len(labels)),
                "itemStyle": {"color": colour, "borderRadius": [3, 3, 0, 0], "opacity": 0.85},
                "emphasis": {"disabled": True},
            }
            for colour, values in kept
        ],
    }


def shares(counts: Sequence[float] | None, ranges: int) -> list[float]:
    """Percent of the values in each range: [ranges]; nothing as long as there are none."""
    if counts is None or len(counts) != ranges + 1:
        return []
    total = sum(counts[:-1])
    return [round(100.0 * count / total, 3) for count in counts[:-1]] if total > 0 else []


# ------------------------------------------------------------------------------------------- parts

_TOOLTIP: Options = {
    "backgroundColor": "var(--surface)",
    "borderColor": "var(--border)",
    "textStyle": {"color": "var(--text)", "fontSize": 12},
    "confine": True,
}
_BASE: Options = {
    "animation": False,
    "grid": {"left": 4, "right": 18, "top": 16, "bottom": 6, "containLabel": True},
}


def _axis(kind: str) -> Options:
    return {
        "type": kind,
        "axisLine": {"show": False},
        "axisTick": {"show": False},
        "axisLabel": {"hideOverlap": True},
        "splitLine": {"show": kind != "category", "lineStyle": {"color": "var(--grid)"}},
    }


def _over(axis: Axis) -> Options:
    label = SECONDS if axis is Axis.WALL_CLOCK else COMPACT
    x = _axis("value") | {"splitLine": {"show": False}, "min": 0}
    x["axisLabel"] = {"hideOverlap": True, ":formatter": label}
    y = _axis("value") | {"scale": True}
    y["axisLabel"] = {"hideOverlap": True, ":formatter": COMPACT}
    return _BASE | {
        "xAxis": x,
        "yAxis": y,
        "tooltip": {**_TOOLTIP, "trigger": "axis", ":valueFormatter": PRECISE},
    }


def _line(name: str, points: Sequence[Any], colour: str, width: float = 1.6) -> Options:
    return {
        "type": "line",
        "name": name,
        "data": list(points),
        "showSymbol": False,
        "lineStyle": {"width": width, "color": colour},
        "itemStyle": {"color": colour},
        "emphasis": {"disabled": True},
    }
