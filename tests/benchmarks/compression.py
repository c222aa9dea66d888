"""What compressing observations saves and costs, by game and method.

Eight environments of each preset play 200 random steps; the next 70 of all of them are what an
insert of blocks of 64 carries. `delta`: what differs from the frame before, which is what is sent
within a host; on links between hosts it is compressed once more. `bytes`: of a compressed
observation. `cost`: one thread packs and unpacks it, beside copying it there and back.
`pays_below`: on a link that is slower than this, packing, sending and unpacking, one after the
other, take less time than sending the observation as it is. Medians over the rounds, in which all
take their turns.
"""

import contextlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from common.compression import METHODS
from common.environments import make_vector
from common.errors import EnvironmentFault
from common.packing import compressed
from deploy import presets
from tests.benchmarks.report import Figure, report
from tests.packed_frames import packed_frames

GAMES = (
    "pong",
    "breakout",
    "space_invaders",
    "qbert",
    "seaquest",
    "beam_rider",
    "minatar-breakout",
    "minatar-asterix",
    "minatar-freeway",
    "minatar-seaquest",
    "minatar-space_invaders",
)
"""Presets."""
ENVS, SKIPPED, STEPS = 8, 200, 70

Array = npt.NDArray[np.generic]


def run(games: tuple[str, ...] = GAMES, rounds: int = 15, json: bool = False) -> None:
    """Bytes and µs of a compressed observation.

    Args:
        games: Presets.
        rounds: How often each is packed and unpacked.
        json: Print one line of JSON for each figure.
    """
    report(figures(games, rounds), as_json=json)


def figures(games: tuple[str, ...], rounds: int) -> list[Figure]:
    """Those of every game that is installed."""
    result: list[Figure] = []
    for game in games:
        with contextlib.suppress(EnvironmentFault):
            result += _figures(game, played(game), rounds)
    return result


def _figures(game: str, observations: Array, rounds: int) -> Iterator[Figure]:
    out = np.empty_like(observations)
    packed = {method: packed_frames(observations, method) for method in METHODS}
    tasks: dict[str, Callable[[], object]] = {"copy": lambda: np.copyto(out, observations)}
    for method, array in packed.items():
        tasks[f"pack {method}"] = partial(compressed, observations, method)
        tasks[f"unpack {method}"] = partial(array.copy_to, out)
    count = ENVS * STEPS
    cost_s = {name: s / count for name, s in _median_s(tasks, rounds).items()}
    raw = observations.nbytes / count
    for method, array in packed.items():
        name, nbytes = f"compression.{game}.{method}", len(array.data) / count
        both_s = cost_s[f"pack {method}"] + cost_s[f"unpack {method}"]
        copies_us = 2e6 * cost_s["copy"]
        yield Figure(f"{name}.bytes", nbytes, "bytes", raw, limit_name="one observation")
        yield Figure(f"{name}.cost", 1e6 * both_s, "µs", copies_us, limit_name="copies")
        yield Figure(f"{name}.pays_below", 8e-9 * (raw - nbytes) / both_s, "Gbit/s")


def _median_s(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times_s: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            start_s = time.perf_counter()
            task()
            times_s[name].append(time.perf_counter() - start_s)
    return {name: statistics.median(values) for name, values in times_s.items()}


def played(game: str) -> Array:
    """Observations of random play [ENVS, STEPS, ...]. Raises EnvironmentFault where the game is not
    installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vector = make_vector(presets.load(game), ENVS)
        try:
            vector.action_space.seed(0)
            vector.reset(seed=0)
            seen = []
            for _ in range(SKIPPED + STEPS):
                observations, *_ = vector.step(vector.action_space.sample())
                seen.append(np.array(observations))
        finally:
            vector.close()
    return np.stack(seen[SKIPPED:], axis=1)
