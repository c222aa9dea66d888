"""Environment steps per second of an actor's whole pipeline, one process.

The pipeline is the actor's real loop: weights, ε-greedy steps, blocks with first priorities, and
inserts to a replay server in another process that stores and acknowledges them. The limit is a bare
loop of the same environments' step, one forward of the same network as PyTorch calls it, and its
argmax: no exploration, no records, no experience. Networks are freshly initialised, the actor's ε
are the preset's ladder. Steps count as the environments take them, ignored ones included, on both
sides; for ALE, frames are four times as many. One window of each in turn; medians.
"""

import statistics
from typing import NamedTuple

from tests.benchmarks.contestants import Contestant, take_turns
from tests.benchmarks.peers import Peers
from tests.benchmarks.report import Figure, report


class Case(NamedTuple):
    preset: str
    vectorization: str
    num_envs: int

    @property
    def name(self) -> str:
        return f"{self.preset}.{self.vectorization}.{self.num_envs}_envs"


CASES = (
    Case("cartpole", "vector_entry_point", 16),
    Case("cartpole", "sync", 16),
    Case("minatar-breakout", "vector_entry_point", 16),
    Case("pong", "vector_entry_point", 32),
)


def run(rounds: int = 5, window_s: float = 2.0, json: bool = False) -> None:
    """Environment steps per second of an actor, beside a bare loop.

    Args:
        rounds: Windows of each.
        window_s: Seconds for each.
        json: Print one line of JSON for each figure.
    """
    report(figures(rounds, window_s), as_json=json)


def figures(rounds: int, window_s: float) -> list[Figure]:
    """Ours beside the bare loop; cases whose environment is not there are left out."""
    result = []
    for case in CASES:
        rates = steps_per_s(case, ("zapex", "bare"), rounds, window_s)
        if rates:
            result.append(
                Figure(
                    f"actor_pipeline.{case.name}",
                    rates["zapex"],
                    "env steps/s",
                    limit=rates["bare"],
                    limit_name="bare loop",
                )
            )
    return result


def steps_per_s(
    case: Case, ways: tuple[str, ...], rounds: int, window_s: float
) -> dict[str, float]:
    """Environment steps per second by way; empty where the environment is not installed."""
    options = ["--preset", case.preset, "--vectorization", case.vectorization]
    options += ["--envs", str(case.num_envs), "--window-s", str(window_s)]
    contestants = [Contestant(way, "actor_rounds", [way, *options]) for way in ways]
    return {
        way: statistics.median(found["env_steps_per_s"])
        for way, found in take_turns(contestants, rounds, Peers(())).items()
    }
