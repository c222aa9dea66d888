"""What one actor, one transition and one batch cost, from runs of several sizes."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tests.benchmarks.report import Figure
from tests.benchmarks.scale.model import UNITS
from tests.benchmarks.scale.running import Measured
from tests.benchmarks.scale.weights import Broadcast

HELD = 0.95
"""Share of the offered transitions from which on a run counts as held: of one that fell behind,
nobody knows what it would have cost."""


class Line(NamedTuple):
    """y = at_zero + slope · x, where neither can be less than nothing."""

    at_zero: float
    slope: float


def line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Least squares. Raises ValueError where there are not two different x."""
    if len(set(x)) < 2:
        raise ValueError("a slope needs runs of two sizes at least that were held")
    slope, at_zero = np.polyfit(x, y, 1)
    return Line(max(float(at_zero), 0.0), max(float(slope), 0.0))


def is_held(run: Measured) -> bool:
    """Whether it got through what was due."""
    stored = run.stored_per_s >= HELD * run.offered_per_s
    return stored and run.batches_per_s >= HELD * run.batches_due_per_s


def cost_figures(
    by_actors: Mapping[int, Measured],
    by_wire: Measured,
    of_16: Measured,
    insert_size: int,
    weights: Broadcast,
    subscribers: int,
) -> list[Figure]:
    """The constants of `scale.model.Costs`.

    Args:
        by_actors: runs with shared memory, by the number of actors; two that were held at least.
        by_wire: the run whose batches came over the wire.
        of_16: the run of actors with 16 environments.
        insert_size: transitions in an insert of the first two.
        weights: a version to `subscribers` from the head.

    Raises ValueError where too few of the runs were held.
    """
    for what, run in (("with batches by wire", by_wire), ("of actors with 16", of_16)):
        if not is_held(run):
            raise ValueError(f"the run {what} was not held: is the machine busy with others?")
    held = {count: run for count, run in by_actors.items() if is_held(run)}
    counts, runs = [float(count) for count in held], list(held.values())
    head = line(counts, [run.control + run.zeromq for run in runs])
    memory = line(counts, [float(run.head_bytes) for run in runs])
    replay = line([run.stored_per_s for run in runs], [run.replay for run in runs])
    feed_s = statistics.median(run.feed / run.batches_per_s for run in runs)
    drawn_s = statistics.median(replay.at_zero / run.batches_per_s for run in runs)
    of_wire = max(by_wire.replay - replay.slope * by_wire.stored_per_s, 0.0)
    values = {
        "head_idle": 100 * head.at_zero,
        "head_per_actor": 1e6 * head.slope,
        "head_memory": memory.at_zero / 1e6,
        "head_memory_per_actor": memory.slope / 1e3,
        "weights_per_subscriber": 1e3 * weights.head_cpu_s / subscribers,
        "weights_bytes": weights.sent / subscribers / 1e6,
        "feed_per_batch_shared_memory": 1e3 * feed_s,
        "feed_per_batch_wire": 1e3 * by_wire.feed / by_wire.batches_per_s,
        "replay_per_batch_shared_memory": 1e3 * drawn_s,
        "replay_per_batch_wire": 1e3 * of_wire / by_wire.batches_per_s,
        "replay_per_transition_of_1": 1e6 * replay.slope,
        "replay_per_transition_of_16": 1e6
        * max(of_16.replay - replay.at_zero, 0.0)
        / of_16.stored_per_s,
        "insert_bytes_per_transition": statistics.median(run.insert_bytes for run in runs)
        / insert_size,
        "batch_bytes_wire": by_wire.batch_bytes / 1e6,
        "control_bytes_per_actor": runs[-1].control_bytes_per_s,
    }
    return [Figure(f"scale.cost.{name}", values[name], unit) for name, unit in UNITS.items()]
