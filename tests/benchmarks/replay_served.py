"""Experience in and batches out of a replay server, to and from other processes on this host.

Two sorts of observation: vectors of 4 float32 in a table of 2²⁰ transitions, and frames of 84×84
bytes in stacks of four in a table of 2¹⁶. Two sizes of insert: one block of 50 transitions, and one
actor's insert of 16 blocks of 64. Batches of 512, whose priorities are all updated. Every round
fills each system's table and measures it, one system after the other; figures are medians over the
rounds.

The limit is a bare ZeroMQ + numba loop without any checks (`peers.bare_zmq`). Vectors are the same
bytes there and here. Frames it moves uncompressed, and batches of them as whole stacks; ours are
compressed, and a batch holds each frame once, so they may exceed it. Of batches that are read from
shared memory the limit is what this machine gathers of rows of that size at random (`machine`), in
as many threads as the learner's feed; inserts come over the wire there, too. The peers are Reverb
and a Ray actor around cpprb, which serve by messages, and cpprb's multi-process buffer in shared
memory.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from common.part_threads import PartThreads
from tests.benchmarks import machine
from tests.benchmarks.own_replay import BY_SHARED_MEMORY, BY_WIRE, manifest_of
from tests.benchmarks.peers import Peers
from tests.benchmarks.peers.bare_zmq import BARE_ZMQ
from tests.benchmarks.peers.script import options_of
from tests.benchmarks.report import Figure, report
from tests.benchmarks.served import WORKLOADS, Rates, ServedReplay, Workload, measure_round

Observations = Literal["vectors", "frames"]
Inserts = Literal["50", "actor"]

SERVING_PEERS = ("reverb_table", "ray_cpprb")
"""Scripts in `peers`: replays that serve by messages."""
SHARING_PEERS = ("mp_cpprb",)
"""... and that share memory."""


class Quantity(NamedTuple):
    field: str
    """Of `Rates`."""
    name: str
    unit: str
    larger_is_better: bool = True


QUANTITIES = (
    Quantity("in_1", "in_1_writer", "transitions/s"),
    Quantity("in_2", "in_2_writers", "transitions/s"),
    Quantity("out", "out_1_reader", "batches/s"),
    Quantity("both_in", "both_in_2_writers", "transitions/s"),
    Quantity("both_out", "both_out_1_reader", "batches/s"),
    Quantity("confirm_p50_us", "confirm_p50", "µs", larger_is_better=False),
    Quantity("confirm_p99_us", "confirm_p99", "µs", larger_is_better=False),
)


def run(
    observations: tuple[Observations, ...] = ("vectors", "frames"),
    inserts: tuple[Inserts, ...] = ("50", "actor"),
    rounds: int = 3,
    window_s: float = 2.0,
    peers: bool = True,
    peer_python: tuple[str, ...] = (sys.executable,),
    json: bool = False,
) -> None:
    """Transitions in and batches out of a replay server, per second.

    Args:
        observations: What is stored.
        inserts: Transitions in an insert: 50, or what an actor of 16 environments sends at once.
        rounds: Rounds in which every system is started and measured once.
        window_s: Seconds for each of the four windows of a system in a round.
        peers: Measure the peers, too.
        peer_python: The Pythons in which peers may be installed.
        json: Print one line of JSON for each figure.
    """
    installed = Peers(peer_python if peers else ())
    found: list[Figure] = []
    for sort in observations:
        for insert in inserts:
            found += figures(sort, insert, rounds, window_s, installed)
    report(found, as_json=json)


def workload_of(observations: Observations, insert: Inserts) -> Workload:
    """What both sides of the comparison do."""
    workload = WORKLOADS[observations]
    return replace(workload, blocks=1, length=50) if insert == "50" else workload


def figures(
    observations: Observations, insert: Inserts, rounds: int, window_s: float, peers: Peers
) -> list[Figure]:
    """Ours, by wire and by shared memory, beside its limit and its best peer; then each peer's."""
    workload = workload_of(observations, insert)
    options = options_of(observations, workload.insert_size, window_s)
    measured: dict[str, list[Rates]] = {}
    gathered: list[float] = []
    threads = PartThreads("gather").count
    for _ in range(rounds):
        for system in (BY_WIRE, BY_SHARED_MEMORY, BARE_ZMQ):
            measured.setdefault(system.name, []).append(measure_round(system, workload, window_s))
        if observations == "frames":
            gathered.append(_gathered_batches_per_s(workload, threads, window_s))
        for peer in SERVING_PEERS + SHARING_PEERS:
            for printed in peers.run(peer, options) or ():
                measured.setdefault(peer, []).append(Rates(**printed))
    medians = {name: _medians(rates) for name, rates in measured.items()}
    where = f"replay_served.{observations}.{insert}"
    bound, bound_name = medians[BARE_ZMQ.name], BARE_ZMQ.name
    if observations == "frames":
        bound_name += ", uncompressed"
    of_threads = f"random gather, {threads} thread{'s' * (threads > 1)}"
    of_gather = {"out": statistics.median(gathered)} if gathered else {}
    return [
        *_beside(where, medians, BY_WIRE, bound, bound_name, SERVING_PEERS),
        *_beside(where, medians, BY_SHARED_MEMORY, of_gather, of_threads, SHARING_PEERS),
        *(
            Figure(f"{where}.{q.name}[{peer}]", medians[peer][q.field], q.unit)
            for peer in SERVING_PEERS + SHARING_PEERS
            if peer in medians
            for q in QUANTITIES
        ),
    ]


def _beside(
    where: str,
    medians: dict[str, dict[str, float]],
    system: ServedReplay,
    limits: dict[str, float],
    limit_name: str,
    peers: Sequence[str],
) -> list[Figure]:
    """All quantities of a system of ours."""
    measured = [peer for peer in peers if peer in medians]
    way = "wire" if system is BY_WIRE else "shared_memory"
    found = []
    for q in QUANTITIES:
        best = (max if q.larger_is_better else min)(
            measured, key=lambda peer: medians[peer][q.field], default=None
        )
        found.append(
            Figure(
                f"{where}.{way}.{q.name}",
                medians[system.name][q.field],
                q.unit,
                limit=limits.get(q.field),
                limit_name=limit_name if q.field in limits else None,
                peer=None if best is None else medians[best][q.field],
                peer_name=best,
            )
        )
    return found


def _medians(rates: Sequence[Rates]) -> dict[str, float]:
    return {q.field: statistics.median(getattr(r, q.field) for r in rates) for q in QUANTITIES}


def _gathered_batches_per_s(workload: Workload, threads: int, window_s: float) -> float:
    """Batches of our own layout, each frame once: U frames a transition."""
    frames = manifest_of(workload).layout.frames_per_transition * workload.batch_size
    return machine.gathered_bytes_per_s(threads, window_s) / (frames * workload.obs_nbytes)
