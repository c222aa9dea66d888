"""Environment steps and updates per second of a run that an engine placed, beside the same run as
bare processes of one launcher.

An engine only starts processes, so it should cost nothing once they run. Both kinds of run take
turns, each from its start, and their medians are compared: what else the machine does falls on
both alike.
"""

import importlib.util
import statistics
import sys

from tests.benchmarks.end_to_end import Speed, speed_of
from tests.benchmarks.report import Figure, report

WORDS = {"ray": ("--engine", "ray")}
"""What starts a run with that engine on this host alone."""


def run(
    preset: str = "cartpole",
    rounds: int = 3,
    window_s: float = 20.0,
    settle_s: float = 3.0,
    json: bool = False,
) -> None:
    """What an engine costs a run.

    Args:
        preset: Preset of the run.
        rounds: Runs of each kind, taking turns.
        window_s: Seconds for which each is measured.
        settle_s: Seconds from when one side waited for the other to the window's begin.
        json: Print one line of JSON for each figure.
    """
    report(figures(preset, rounds, window_s, settle_s), as_json=json)


def figures(preset: str, rounds: int, window_s: float, settle_s: float) -> list[Figure]:
    """For each engine that is installed, the median speed and as its limit that without it."""
    result = []
    for engine, words in WORDS.items():
        if importlib.util.find_spec(engine) is None:
            print(
                f"skipped: {engine} is not installed: pip install 'zapex[{engine}]'",
                file=sys.stderr,
            )
            continue
        placed: list[Speed] = []
        bare: list[Speed] = []
        for _ in range(rounds):
            bare.append(speed_of(preset, window_s, settle_s))
            placed.append(speed_of(preset, window_s, settle_s, words))
        for what, unit in (("env_steps", "env steps/s"), ("updates", "updates/s")):
            value, limit = (
                statistics.median(getattr(one, f"{what}_per_s") for one in kind)
                for kind in (placed, bare)
            )
            name = f"engines.{preset}.{engine}.{what}"
            result.append(Figure(name, value, unit, limit, limit_name="bare processes"))
    return result
