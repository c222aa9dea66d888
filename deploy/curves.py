"""The pictures of one run: what it learnt (curve.png), and at what speed (throughput.png).

Colours are Okabe and Ito's, which the colour-blind tell apart.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from common.errors import RunDirectoryError
from deploy.history import History, Line, Point
from deploy.live_view import show_return

CURVE_FILE = "curve.png"
THROUGHPUT_FILE = "throughput.png"

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "0.35"
DPI = 150
STRETCHES = 200
"""Rates are means over the run's time divided by this, so that a long run's are more than noise."""
SMOOTHED_EPISODES = 100
"""Training returns are means over so many episodes, or over a hundredth of all if that is more."""
MAX_MARKERS = 100
"""More evaluations than these are a line without markers."""
CONFIDENCE_Z = 1.96
"""Standard errors on each side of a mean within which the true one lies in 95% of all cases."""


def draw_run(history: History) -> list[Path]:
    """Draw both pictures into the run's directory; returns their paths.

    Raises RunDirectoryError when they cannot be written there.
    """
    drawn = []
    for name, figure in (
        (CURVE_FILE, curve_figure(history)),
        (THROUGHPUT_FILE, throughput_figure(history)),
    ):
        drawn.append(history.run_dir / name)
        save(figure, drawn[-1])
    return drawn


def save(figure: Figure, path: Path) -> None:
    """Write a picture; the path's ending says how.

    Raises RunDirectoryError when it cannot be written.
    """
    try:
        figure.savefig(path, dpi=DPI)
    except OSError as error:
        why = error.strerror or error
        raise RunDirectoryError(
            f"cannot write {path} ({why}): make its directory, or choose another --out"
        ) from error


def curve_figure(history: History) -> Figure:
    """Greedy score and training return over environment steps and over wall time."""
    figure = Figure(figsize=(10.0, 4.6), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08}))
    env_steps, wall_s = _extent(history)
    unit_s, unit = time_unit(wall_s)
    _draw_returns(panels[0], history, lambda env_steps, _: env_steps)
    _draw_returns(panels[1], history, lambda _, wall_s: wall_s / unit_s)
    style(panels[0], env_steps, xlabel="environment steps", ylabel="return of an episode")
    style(panels[1], wall_s / unit_s, xlabel=f"wall time ({unit})")
    if not history.evaluations and not history.episodes:
        for axes in panels:
            _say(axes, "no episode has ended yet")
    figure.suptitle(_title(history), x=0.01, ha="left", fontsize="large")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=5, fontsize="small", frameon=False
        )
    return figure


def throughput_figure(history: History) -> Figure:
    """Rates, the replay's fill, and who waited for whom, over wall time."""
    figure = Figure(figsize=(10.0, 5.6), layout="constrained")
    steps, updates, fill, waiting = figure.subplots(2, 2, sharex=True).flat
    _, wall_s = _extent(history)
    unit_s, unit = time_unit(wall_s)

    def draw(axes: Axes, points: Sequence[Point], colour: str, label: str | None = None) -> None:
        x, y = [wall_s / unit_s for _, wall_s, _ in points], [value for *_, value in points]
        if points:
            axes.plot(x, y, color=colour, label=label, marker=_marker(points))

    def rates(name: str) -> list[Point]:
        return history.rates(name, max(wall_s / STRETCHES, 0.5))

    fills, capacity = _fill(history)
    # The replay server leaves before the learner; what it counted stands still then.
    until_s = fills[-1][1] if fills else wall_s

    servers = 1 if history.config is None else history.config.replay_servers

    def shares(name: str, processes: int = 1) -> list[Point]:
        found = [point for point in rates(name) if point[1] <= until_s]
        return [(at, end, min(share / processes, 1.0)) for at, end, share in found]

    of_what = "in" if capacity is None else f"of {capacity:,}"
    draw(steps, rates("env_steps"), BLUE)
    draw(updates, rates("updates"), ORANGE)
    draw(fill, fills, GREEN)
    draw(waiting, shares("replay_insert_blocked_seconds_total", servers), BLUE, "actors")
    draw(waiting, shares("learner_waited_seconds_total"), ORANGE, "learner")
    for axes, title, is_share in (
        (steps, "environment steps per second", False),
        (updates, "learner updates per second", False),
        (fill, f"replay fill, {of_what} transitions", capacity is not None),
        (waiting, "waiting for the other side", True),
    ):
        style(axes, wall_s / unit_s)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set_ylim(bottom=0.0)
        if is_share:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if not axes.lines:
            _say(axes, "not recorded")
    for axes in (fill, waiting):
        axes.set_xlabel(f"wall time ({unit})")
    if waiting.lines:
        waiting.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=2, frameon=False)
    figure.suptitle(_title(history), x=0.01, ha="left", fontsize="large")
    return figure


def time_unit(span_s: float) -> tuple[float, str]:
    """The unit that a stretch of time reads well in: its seconds and its symbol."""
    for seconds, symbol in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
        if span_s >= 3.0 * seconds:
            return seconds, symbol
    return 1.0, "s"


def standard_error(evaluation: Line) -> float:
    """Of an evaluation's mean: s/√n with s² = Σ(R − mean)²/(n − 1); not a number for a single
    episode, and where the evaluation does not tell. Its return_std is √(Σ(R − mean)²/n)."""
    episodes, std = evaluation.get("episodes", 0), evaluation.get("return_std")
    if std is None or episodes < 2:
        return math.nan
    return float(std / math.sqrt(episodes - 1))


def style(axes: Axes, extent: float, *, xlabel: str = "", ylabel: str = "") -> None:
    """What all pictures have in common: x from 0 to a little more than `extent`."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if extent > 0.0:
        axes.set_xlim(0.0, 1.02 * extent)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))


def draw_target(axes: Axes, target: float) -> None:
    """The return at which a run counts as solved."""
    label = f"target {target:g}"
    axes.axhline(target, color=GREY, linestyle="--", linewidth=1.2, label=label, zorder=1)


def _draw_returns(axes: Axes, history: History, x_of: Callable[[float, float], float]) -> None:
    newest = max(SMOOTHED_EPISODES, history.episodes // 100)
    training = history.training_returns(newest)
    if training:
        axes.plot(
            [x_of(env_steps, wall_s) for env_steps, wall_s, _ in training],
            [value for *_, value in training],
            color=ORANGE,
            label=f"training return, newest {newest:,} episodes",
            marker=_marker(training),
            zorder=2,
        )
    best = history.best_evaluation
    if best is not None:
        _draw_scores(axes, history.evaluations, best, x_of)
    if history.config is not None and history.config.target_return is not None:
        draw_target(axes, history.config.target_return)


def _draw_scores(
    axes: Axes, evaluations: list[Line], best: Line, x_of: Callable[[float, float], float]
) -> None:
    x = [x_of(e["env_steps"], e["wall_s"]) for e in evaluations]
    means = np.array([e["return_mean"] for e in evaluations], np.float64)
    # Where the error is not a number there is no band.
    half = CONFIDENCE_Z * np.array([standard_error(e) for e in evaluations])
    marker = "o" if len(x) <= MAX_MARKERS else ""
    axes.plot(x, means, color=BLUE, marker=marker, markersize=3.5, label="greedy score", zorder=4)
    axes.fill_between(
        x,
        means - half,
        means + half,
        color=BLUE,
        alpha=0.2,
        linewidth=0.0,
        label="95% confidence of its mean",
        zorder=3,
    )
    axes.plot(
        [x_of(best["env_steps"], best["wall_s"])],
        [best["return_mean"]],
        color=GREEN,
        marker="*",
        markersize=15,
        markeredgecolor="white",
        linestyle="none",
        label=f"best: {show_return(best['return_mean'])}",
        zorder=5,
    )


def _fill(history: History) -> tuple[list[Point], int | None]:
    """The replay's transitions as a share of its capacity, and that; without a configuration they
    are as many as they are."""
    points = history.column("replay_transitions")
    if history.config is None:
        return points, None
    capacity = history.config.replay_size
    return [(env_steps, wall_s, size / capacity) for env_steps, wall_s, size in points], capacity


def _extent(history: History) -> tuple[float, float]:
    """Environment steps and wall time, in seconds, as far as is known of the run."""
    known = [*history.lines[-1:], *history.evaluations[-1:]]
    return (
        max((float(at["env_steps"]) for at in known), default=0.0),
        max((float(at["wall_s"]) for at in known), default=0.0),
    )


def _title(history: History) -> str:
    config, (env_steps, wall_s) = history.config, _extent(history)
    title = history.name if config is None else f"{config.env}, seed {config.seed}"
    if wall_s == 0.0:
        return title
    unit_s, unit = time_unit(wall_s)
    solved = "solved, " if (history.result or {}).get("solved") else ""
    return f"{title}: {solved}{env_steps:,.0f} environment steps in {wall_s / unit_s:.1f} {unit}"


def _marker(points: Sequence[Point]) -> str:
    """One point alone is no line."""
    return "o" if len(points) == 1 else ""


def _say(axes: Axes, what: str) -> None:
    axes.text(0.5, 0.5, what, transform=axes.transAxes, ha="center", va="center", color=GREY)
