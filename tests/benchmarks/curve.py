"""What keys cost: the same with encrypted and authenticated connections and without.

Inserts into and batches out of a replay server over TCP on loopback, observations being vectors or
frames, as in `replay_served` by wire with an actor's inserts; and environment steps of whole runs,
as in `end_to_end`. Rounds with keys and without take turns; figures are medians over them. The
limit is the speed without keys in the same run: the ratio is what is left of it.
"""

import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.keys import PATH_VARIABLE, make_directory
from tests.benchmarks import end_to_end
from tests.benchmarks.own_replay import BY_WIRE
from tests.benchmarks.replay_served import QUANTITIES, Observations, workload_of
from tests.benchmarks.report import Figure, report
from tests.benchmarks.served import Rates, measure_round

WITHOUT = "without keys"


def run(
    observations: tuple[Observations, ...] = ("vectors", "frames"),
    presets: tuple[str, ...] = ("cartpole",),
    rounds: int = 5,
    window_s: float = 2.0,
    run_window_s: float = 20.0,
    json: bool = False,
) -> None:
    """Speeds with keys beside those without.

    Args:
        observations: What a replay server stores and gives.
        presets: Whole runs; none: only the replay server.
        rounds: Times that each is measured with keys, and without.
        window_s: Seconds for each of the windows at a replay server.
        run_window_s: Seconds for which a whole run is measured.
        json: Print one line of JSON for each figure.
    """
    report(figures(observations, presets, rounds, window_s, run_window_s), as_json=json)


def figures(
    observations: tuple[Observations, ...],
    presets: tuple[str, ...],
    rounds: int,
    window_s: float,
    run_window_s: float,
) -> list[Figure]:
    """Each quantity with keys, beside the same without."""
    found = []
    with tempfile.TemporaryDirectory(prefix="zapex-") as temporary:
        keys = Path(temporary) / "keys"
        make_directory(keys)
        for sort in observations:
            workload = workload_of(sort, "actor")
            measured: dict[bool, list[Rates]] = {True: [], False: []}
            for with_keys in _turns(rounds):
                with _environment(keys if with_keys else None):
                    measured[with_keys].append(measure_round(BY_WIRE, workload, window_s))
            for q in QUANTITIES:
                ours, bare = (
                    statistics.median(getattr(rates, q.field) for rates in measured[with_keys])
                    for with_keys in (True, False)
                )
                found.append(
                    Figure(f"curve.{sort}.{q.name}", ours, q.unit, bare, limit_name=WITHOUT)
                )
        for preset in presets:
            speeds: dict[bool, list[float]] = {True: [], False: []}
            for with_keys in _turns(rounds):
                with _environment(keys if with_keys else None):
                    speed = end_to_end.speed_of(preset, run_window_s, settle_s=3.0)
                speeds[with_keys].append(speed.env_steps_per_s)
            ours, bare = statistics.median(speeds[True]), statistics.median(speeds[False])
            where = f"curve.end_to_end.{preset}.env_steps"
            found.append(Figure(where, ours, "env steps/s", bare, limit_name=WITHOUT))
    return found


def _turns(rounds: int) -> Iterator[bool]:
    """With and without, in turns; who is first changes."""
    for i in range(rounds):
        yield from (i % 2 == 0, i % 2 != 0)


@contextmanager
def _environment(keys: Path | None) -> Iterator[None]:
    """All processes that are started meanwhile have these keys."""
    if keys is not None:
        os.environ[PATH_VARIABLE] = str(keys)
    try:
        yield
    finally:
        os.environ.pop(PATH_VARIABLE, None)
