"""Simulated actors, by the hundred, against a real head and real replay servers on this host.

A simulated actor is a connection of its own to the head, to its replay server and, where it says
so, to the weights: the real membership, insert window, compression and subscription, with
experience that was made beforehand (84×84 frames that compress as Atari's). Actors of a simulated
host share one thread. They offer transitions at the paper's rate, 12,500 a second for 360 actors,
50 at a time, however long that takes; the limit is what they offered. Beside them the head's
process takes 19 batches of 512 a second through the learner's own feed and gives all priorities
back; only the network's update, which a GPU would do, is missing. Weights of 13 MB go out every 25
batches, once to each of two simulated hosts, as their relays would take them. All of it, the
simulators too, shares this machine's cores.

Times of an acknowledgement are the actors' own, to about a millisecond. Shares of a core are
processor time. `weights` counts what the head sends for one version, by the kernel's count on its
connections. `join` is a real actor's way into a run of that many simulated ones, from when it
begins to connect, its imports done: also those that numba makes with the first compiled function,
1.3 s of a core. `shards` is what one and two replay servers take and give at most, in turn. `cost`
is what docs/scaling.md reckons with, from the runs above.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tests.benchmarks.report import Figure, report
from tests.benchmarks.scale.costs import cost_figures
from tests.benchmarks.scale.join import join_times
from tests.benchmarks.scale.plan import (
    PAPER_ACTORS,
    PAPER_TRANSITIONS_PER_S,
    Plan,
    paper_workload,
)
from tests.benchmarks.scale.running import Measured, running
from tests.benchmarks.scale.weights import Broadcast, broadcast
from tests.benchmarks.served import WORKLOADS

Part = Literal["load", "weights", "join", "shards"]
PARTS: tuple[Part, ...] = ("load", "weights", "join", "shards")
ENVS = 16
SHARD_WRITERS = 4
"""Actors that insert as fast as they can."""


def run(
    actors: tuple[int, ...] = (1, 10, 100, 360, 1000),
    parts: tuple[Part, ...] = PARTS,
    window_s: float = 10.0,
    subscribers: int = 360,
    joined: int = 200,
    rounds: int = 3,
    json: bool = False,
) -> None:
    """Simulated actors against real servers.

    Args:
        actors: How many offer experience at the paper's rate, in a run each.
        parts: load (with cost, where weights are measured, too), weights, join, shards.
        window_s: Seconds for which each run is measured.
        subscribers: Actors of one host that take weights of 13 MB, with a relay and without.
        joined: Actors that are there when another joins.
        rounds: Versions of the weights, joins, and turns of one and two replay servers.
        json: Print one line of JSON for each figure.
    """
    report(figures(actors, parts, window_s, subscribers, joined, rounds), as_json=json)


def figures(
    actors: Sequence[int],
    parts: Sequence[Part],
    window_s: float,
    subscribers: int,
    joined: int,
    rounds: int,
) -> list[Figure]:
    """As `run`."""
    found: list[Figure] = []
    direct: Broadcast | None = None
    if "weights" in parts:
        direct = broadcast(subscribers, "actors", rounds)
        relayed = broadcast(subscribers, "relay", rounds)
        found += _weights_figures(subscribers, direct, relayed)
    if "load" in parts:
        found += _load_figures(actors, window_s, direct, subscribers)
    if "join" in parts:
        found += _join_figures(joined, rounds)
    if "shards" in parts:
        found += _shards_figures(rounds, window_s)
    return found


def _load_figures(
    actors: Sequence[int], window_s: float, weights: Broadcast | None, subscribers: int
) -> list[Figure]:
    """Runs of all sizes; then the paper's with batches by wire, and one of actors with 16
    environments; then what that makes of each part's cost."""
    plan = Plan(paper_workload("frames"), PAPER_ACTORS)
    found: list[Figure] = []
    by_actors: dict[int, Measured] = {}
    for count in actors:
        by_actors[count], new = _load(
            f"frames.{count}_actors", replace(plan, actors=count), window_s
        )
        found += new
    by_wire, new = _load(f"frames.{PAPER_ACTORS}_actors_wire", replace(plan, link="wire"), window_s)
    found += new
    many = Plan(
        replace(WORKLOADS["frames"], capacity=plan.workload.capacity),
        actors=PAPER_ACTORS // ENVS,
        transitions_per_s=ENVS * PAPER_TRANSITIONS_PER_S / PAPER_ACTORS,
    )
    of_16, new = _load(f"frames.{many.actors}_actors_of_{ENVS}", many, window_s)
    found += new
    vectors = replace(plan, workload=paper_workload("vectors"), weights_to="actors")
    found += _load(f"vectors.{PAPER_ACTORS}_actors", vectors, window_s)[1]
    if weights is None:
        return found
    size = plan.workload.insert_size
    try:
        return found + cost_figures(by_actors, by_wire, of_16, size, weights, subscribers)
    except ValueError as error:
        print(f"no cost: {error}", file=sys.stderr)
        return found


def _load(name: str, plan: Plan, window_s: float) -> tuple[Measured, list[Figure]]:
    with running(plan) as started:
        joined_s, run = started.joined_s, started.window(window_s)
    where, of_a_core = f"scale.{name}", "% of a core"
    actors_cpu = run.control + run.zeromq
    return run, [
        Figure(
            f"{where}.stored",
            run.stored_per_s,
            "transitions/s",
            run.offered_per_s,
            limit_name="offered",
        ),
        Figure(
            f"{where}.batches",
            run.batches_per_s,
            "batches/s",
            run.batches_due_per_s,
            limit_name="asked for",
        ),
        Figure(f"{where}.ack_p50", 1e3 * run.ack_p50_s, "ms"),
        Figure(f"{where}.ack_p99", 1e3 * run.ack_p99_s, "ms"),
        Figure(f"{where}.ack_max", 1e3 * run.ack_max_s, "ms"),
        Figure(f"{where}.weights_p50", 1e3 * run.weights_p50_s, "ms"),
        Figure(f"{where}.all_joined", joined_s, "s"),
        Figure(f"{where}.head_actors_cpu", 100 * actors_cpu, of_a_core),
        Figure(f"{where}.head_feed_cpu", 100 * run.feed, of_a_core),
        Figure(f"{where}.replay_cpu", 100 * run.replay, of_a_core),
        Figure(f"{where}.simulators_cpu", 100 * run.simulators, of_a_core),
        Figure(f"{where}.head_cpu_per_actor", 1e6 * actors_cpu / plan.actors, "µs/s"),
        Figure(f"{where}.replay_cpu_per_actor", 1e6 * run.replay / plan.actors, "µs/s"),
        Figure(f"{where}.head_memory", run.head_bytes / 1e6, "MB"),
        Figure(f"{where}.replay_memory", run.replay_bytes / 1e6, "MB"),
    ]


def _weights_figures(actors: int, direct: Broadcast, relayed: Broadcast) -> list[Figure]:
    """With a relay beside without."""
    where, without = f"scale.weights.{actors}_actors", "without a relay"

    def beside(name: str, with_relay: float, alone: float, unit: str) -> list[Figure]:
        return [
            Figure(f"{where}.{name}", alone, unit),
            Figure(f"{where}_relay.{name}", with_relay, unit, limit=alone, limit_name=without),
        ]

    return [
        *beside("head_sent", relayed.sent / 1e6, direct.sent / 1e6, "MB/version"),
        *beside("head_cpu", 1e3 * relayed.head_cpu_s, 1e3 * direct.head_cpu_s, "ms/version"),
        *beside("reached_all", relayed.reached_s, direct.reached_s, "s"),
    ]


def _join_figures(actors: int, rounds: int) -> list[Figure]:
    times = join_times(actors, rounds)
    where = f"scale.join.{actors}_actors"
    return [
        Figure(f"{where}.welcome", statistics.median(t.welcome_s for t in times), "s"),
        Figure(f"{where}.acting", statistics.median(t.acting_s for t in times), "s"),
        Figure(f"{where}.accepted", statistics.median(t.accepted_s for t in times), "s"),
        Figure(f"{where}.accepted_max", max(t.accepted_s for t in times), "s"),
    ]


def _shards_figures(rounds: int, window_s: float) -> list[Figure]:
    """Two replay servers beside one: what actors insert and the learner's feed gets at most."""
    result = []
    for observations, workload in WORKLOADS.items():
        rates: dict[int, list[Measured]] = {1: [], 2: []}
        for turn in range(rounds):
            for servers in (1, 2) if turn % 2 == 0 else (2, 1):
                plan = Plan(
                    workload,
                    SHARD_WRITERS,
                    transitions_per_s=None,
                    batches_per_s=None,
                    replay_servers=servers,
                )
                with running(plan) as started:
                    rates[servers].append(started.window(window_s))
        for name, field, unit in (
            ("stored", "stored_per_s", "transitions/s"),
            ("batches", "batches_per_s", "batches/s"),
        ):
            one, two = (
                statistics.median(getattr(run, field) for run in rates[servers])
                for servers in (1, 2)
            )
            where = f"scale.shards.{observations}"
            result += [
                Figure(f"{where}.1.{name}", one, unit),
                Figure(f"{where}.2.{name}", two, unit, limit=one, limit_name="one replay server"),
            ]
    return result
