"""The picture of several runs side by side: a curve and a band for each group of them."""

import math
import textwrap
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from deploy.comparison import Floats, Group, Statistic, aggregate
from deploy.curves import GREY, draw_target, style, time_unit
from deploy.history import History

Axis = Literal["env_steps", "wall"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which the colour-blind tell apart."""
MARKERS = "os^DvPX*"
"""One more than there are colours: the two together repeat after 56 curves only."""
LINE_LENGTH = 90
"""Characters that fit into the picture's width."""
MAX_COLUMNS = 3
SHOWN: dict[Statistic, str] = {"mean": "mean", "iqm": "interquartile mean"}


def comparison_figure(groups: Sequence[Group], statistic: Statistic, axis: Axis) -> Figure:
    """Greedy scores of all groups over environment steps or wall time.

    Every run must have an evaluation.
    """
    curves = [[_scores(history, axis) for history in group.histories] for group in groups]
    extent = max(float(x[-1]) for runs in curves for x, _ in runs)
    scale, xlabel = 1.0, "environment steps"
    if axis == "wall":
        unit_s, unit = time_unit(extent)
        scale, xlabel = 1.0 / unit_s, f"wall time ({unit})"
    longest = max(len(group.label) for group in groups)
    columns = max(min(LINE_LENGTH // longest, MAX_COLUMNS), 1)
    height = 4.5 + 0.25 * math.ceil((len(groups) + 1) / columns)
    figure = Figure(figsize=(8.0, height), layout="constrained")
    axes = figure.subplots()
    for i, (group, runs) in enumerate(zip(groups, curves, strict=True)):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        if len(runs) > 1:
            for x, scores in runs:
                axes.plot(x * scale, scores, color=colour, linewidth=0.8, alpha=0.3, zorder=2)
        drawn = aggregate(runs, statistic)
        x = drawn.x * scale
        axes.fill_between(
            x, drawn.low, drawn.high, color=colour, alpha=0.15, linewidth=0.0, zorder=1
        )
        axes.plot(x, drawn.centre, color=colour, linestyle=":", linewidth=1.5, zorder=3)
        complete = drawn.runs == len(runs)
        axes.plot(
            x,
            np.where(complete, drawn.centre, np.nan),
            color=colour,
            linewidth=2.0,
            marker=marker,
            markevery=_some(np.flatnonzero(complete)),
            label=textwrap.fill(group.label, LINE_LENGTH),
            zorder=4,
        )
    targets = {h.config.target_return for g in groups for h in g.histories if h.config is not None}
    target = targets.pop() if len(targets) == 1 else None
    if target is not None:
        draw_target(axes, target)
    style(axes, extent * scale, xlabel=xlabel, ylabel="greedy return")
    envs = dict.fromkeys(h.config.env for g in groups for h in g.histories if h.config is not None)
    figure.suptitle(", ".join(envs), x=0.01, ha="left", fontsize="large")
    if any(len(runs) > 1 for runs in curves):
        axes.set_title(
            f"{SHOWN[statistic]} over runs, 95% bootstrap band; dotted: without some of the runs",
            loc="left",
            fontsize="medium",
            color=GREY,
        )
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _scores(history: History, axis: Axis) -> tuple[Floats, Floats]:
    """Places, ascending, and scores of a run's evaluations."""
    key = "wall_s" if axis == "wall" else axis
    by_place = {float(e[key]): float(e["return_mean"]) for e in history.evaluations}
    places = sorted(by_place)
    return np.array(places), np.array([by_place[place] for place in places])


def _some(places: npt.NDArray[np.intp], count: int = 6) -> list[int]:
    """About so many of them, evenly, with the last."""
    return [int(i) for i in places[:: -max(len(places) // count, 1)]]
