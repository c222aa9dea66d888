"""All benchmarks that take minutes, one after the other; `solve` and `memory` take hours."""

import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks import (
    actor_pipeline,
    compression,
    curve,
    end_to_end,
    env_stepping,
    inference,
    learner_fed,
    learner_update,
    machine,
    replay_served,
    scale,
    sinks,
    sum_tree,
    telemetry_head,
    transition_memory,
    weights_broadcast,
)
from tests.benchmarks.markdown import (
    Circumstances,
    Group,
    machine_facts,
    page,
    read_groups,
    write_groups,
)
from tests.benchmarks.peers import Peers
from tests.benchmarks.report import Figure, report
from tests.benchmarks.scale.model import Costs, refreshed

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
FIGURES = PAGE.with_suffix(".json")
"""What the page was made of: figures that are not measured again stay."""
SCALING = PAGE.with_name("scaling.md")
"""Reckons with what `scale` found."""


def _replay_served(quick: bool, peers: Peers) -> list[Figure]:
    rounds, window_s = (1, 1.0) if quick else (2, 2.0)
    return [
        figure
        for observations in ("vectors", "frames")
        for insert in ("50", "actor")
        for figure in replay_served.figures(observations, insert, rounds, window_s, peers)
    ]


def _learner_update(quick: bool, peers: Peers) -> list[Figure]:
    if quick:
        cases, only = ("mlp_512", "minatar_256", "nature_32"), ("defaults",)
        return learner_update.figures(cases, only, 2, peers)
    return learner_update.figures(("mlp_512", "minatar_256", "nature_128"), (), 5, peers)


def _end_to_end(quick: bool, peers: Peers) -> list[Figure]:
    presets = ("cartpole", "minatar-breakout", "pong")
    window_s, limit_window_s = (15.0, 1.0) if quick else (40.0, 2.0)
    return end_to_end.figures(presets, window_s, 3.0, limit_window_s)


def _scale(quick: bool, peers: Peers) -> list[Figure]:
    if quick:
        return scale.figures((10, 360), scale.PARTS, 4.0, subscribers=60, joined=200, rounds=1)
    sizes = (1, 10, 100, 360, 1000)
    return scale.figures(sizes, scale.PARTS, 10.0, subscribers=360, joined=200, rounds=3)


BENCHMARKS: dict[str, Callable[[bool, Peers], list[Figure]]] = {
    "machine": lambda quick, peers: machine.figures(3 if quick else 9, 0.5),
    "sum_tree": lambda quick, peers: sum_tree.figures(5 if quick else 30, peers),
    "replay_served": _replay_served,
    "env_stepping": lambda quick, peers: env_stepping.figures(
        *((2, 0.3) if quick else (5, 0.5)), peers.wanted
    ),
    "transition_memory": lambda quick, peers: transition_memory.figures(peers),
    "compression": lambda quick, peers: compression.figures(compression.GAMES, 3 if quick else 25),
    "actor_pipeline": lambda quick, peers: actor_pipeline.figures(
        *((2, 1.0) if quick else (7, 2.0))
    ),
    "learner_fed": lambda quick, peers: learner_fed.figures(*((2, 1.0) if quick else (7, 2.0))),
    "learner_update": _learner_update,
    "weights_broadcast": lambda quick, peers: weights_broadcast.figures(
        (1, 16, 128), ("mlp", "nature"), 1.0 if quick else 5.0
    ),
    "inference": lambda quick, peers: inference.figures(
        (1, 2), 32, "nature", "auto", *((2, 1.0) if quick else (5, 2.0))
    ),
    "end_to_end": _end_to_end,
    "curve": lambda quick, peers: curve.figures(
        ("vectors", "frames"), ("cartpole",), *((1, 1.0, 10.0) if quick else (5, 2.0, 20.0))
    ),
    "telemetry_head": lambda quick, peers: telemetry_head.figures(
        (1000,), *((5.0, 1) if quick else (10.0, 3))
    ),
    "scale": _scale,
    "sinks": lambda quick, peers: sinks.figures(
        "cartpole", *((3.0, 2, 5.0) if quick else (5.0, 16, 20.0))
    ),
}
"""By module, in the order of the page; called with whether it is to be quick."""


def run(
    names: tuple[str, ...] = tuple(BENCHMARKS),
    quick: bool = False,
    markdown: bool = False,
    peers: bool = True,
    peer_python: tuple[str, ...] = (sys.executable,),
    json: bool = False,
) -> None:
    """All benchmarks that take minutes.

    Args:
        names: Which of them; the page keeps what it says about the others.
        quick: One round of short windows: minutes instead of an hour, and a look instead of a
            result.
        markdown: Write docs/benchmarks.md, too.
        peers: Measure the peers, too.
        peer_python: The Pythons in which peers may be installed.
        json: Print one line of JSON for each figure.
    """
    installed = Peers(peer_python if peers else ())
    command = "python -m tests.benchmarks all --markdown" + (" --quick" if quick else "")
    groups = read_groups(FIGURES) if markdown else {}
    for name in names:
        groups[name] = _measure(name, quick, installed)
        report(groups[name].figures, as_json=json)
        if markdown:
            # After each of them: what was measured is not lost with what could not be.
            in_order = [groups[known] for known in BENCHMARKS if known in groups]
            date = time.strftime("%Y-%m-%d")
            PAGE.write_text(page(in_order, Circumstances(date, command, groups[name].facts)))
            write_groups(FIGURES, in_order)
            if name == "scale":
                _write_scaling(groups[name].figures)
            print(f"written: {PAGE}", file=sys.stderr)
    if failed := [name for name in names if groups[name].failure] + installed.failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


def _write_scaling(figures: Sequence[Figure]) -> None:
    try:
        costs = Costs.of(figures)
    except KeyError as error:
        print(f"{SCALING} stays as it is: {error} was not measured", file=sys.stderr)
        return
    SCALING.write_text(refreshed(SCALING.read_text(), costs))


def _measure(name: str, quick: bool, peers: Peers) -> Group:
    """One benchmark; its failure is told, and those after it go on."""
    how = importlib.import_module(f"tests.benchmarks.{name}").__doc__ or ""
    # Before anything is measured: the load is that of others.
    load = os.getloadavg()[0]
    when = (
        f"Measured on {time.strftime('%Y-%m-%d')}; when it began, the load average was {load:.1f} "
        f"and one thread copied {machine.copy_speed():.1f} GB/s."
    )
    if quick:
        when += " One round of short windows: a look, not a result."
    facts, start_s = tuple(machine_facts(peers.versions())), time.monotonic()
    peers.forget_missing()
    try:
        figures = BENCHMARKS[name](quick, peers)
    except Exception as error:
        traceback.print_exc()
        return Group(name, how, [], f"{type(error).__name__}: {error}", when, facts)
    print(f"{name}: {time.monotonic() - start_s:.0f} s", file=sys.stderr)
    missing = tuple(f"{peer} ({why})" for peer, why in peers.missing.items())
    return Group(name, how, figures, when=when, facts=facts, missing=missing)
