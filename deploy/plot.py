"""`python -m deploy plot RUN_DIR...`: the pictures of a run, or several runs in one."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common.config import Config
from common.errors import ConfigError, RunDirectoryError
from deploy.history import History, read_history

ENDINGS = (".png", ".svg", ".pdf")


@dataclass(kw_only=True)
class Plot:
    """Draw the greedy scores of several runs into one picture.

    Runs that differ in nothing but their seed are one curve with a bootstrapped 95% band. Of one
    run alone the pictures that it got at its end are drawn anew, as far as it has come."""

    run_dirs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN_DIR ...")
    ]
    """Directories of runs, finished or going on."""
    out: Path | None = None
    """File to write; its ending (.png, .svg, .pdf) says how. None: plot.png or, of one run alone,
    RUN_DIR/curve.png and RUN_DIR/throughput.png. With it, one run's curve goes there."""
    statistic: Literal["mean", "iqm"] = "mean"
    """Over the runs of a curve: the mean, or the interquartile mean, which outliers do not move."""
    x: Literal["env_steps", "wall"] = "env_steps"
    """Over environment steps, or over wall time."""
    group: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Key of the configuration by which runs are put together, whatever else they differ in; may be
    given several times. Without it: all keys but the seed."""
    debug: bool = False
    """Print a traceback with an error."""


def plot(argv: list[str]) -> int:
    """Returns the exit code. Raises ZapexError for what cannot be drawn."""
    options = tyro.cli(Plot, args=argv, prog="python -m deploy plot")
    _check(options)
    run_dirs: dict[Path, Path] = {}
    for path in options.run_dirs:
        # A run that is named twice must not count twice.
        run_dirs.setdefault(path.resolve(), path)
    histories = [read_history(path) for path in run_dirs.values()]
    for history in histories:
        for note in history.notes:
            print(f"{history.run_dir}: {note}")
    try:
        if len(histories) == 1:
            return _plot_one(histories[0], options.out)
        return _plot_several(histories, options)
    except ImportError as error:
        raise ConfigError(
            f"plot needs matplotlib and scipy ({error}): pip install 'zapex[watch]'"
        ) from error


def _check(options: Plot) -> None:
    if not options.run_dirs:
        raise ConfigError("plot needs the directory of a run, or of several")
    if options.out is not None and options.out.suffix.lower() not in ENDINGS:
        raise ConfigError(f"--out {options.out}: its ending must be one of {', '.join(ENDINGS)}")
    for key in options.group:
        if key not in Config.model_fields:
            near = difflib.get_close_matches(key, Config.model_fields, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"--group {key}: the configuration has no such key{hint}")


def _plot_one(history: History, out: Path | None) -> int:
    from deploy.curves import curve_figure, draw_run, save

    if out is None:
        written = draw_run(history)
    else:
        save(curve_figure(history), out)
        written = [out]
    print(f"wrote {' and '.join(map(str, written))}")
    return 0


def _plot_several(histories: Sequence[History], options: Plot) -> int:
    from deploy.comparison import group_runs
    from deploy.comparison_figure import comparison_figure
    from deploy.curves import save

    drawn = [history for history in histories if history.evaluations]
    for history in histories:
        if not history.evaluations:
            print(f"{history.run_dir}: not in the picture, for it has no evaluation yet")
    if not drawn:
        raise RunDirectoryError("nothing to draw: none of these runs has an evaluation yet")
    groups = group_runs(drawn, options.group)
    out = options.out or Path("plot.png")
    save(comparison_figure(groups, options.statistic, options.x), out)
    print(f"wrote {out}: {_count(len(drawn), 'run')}, {_count(len(groups), 'curve')}")
    return 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
