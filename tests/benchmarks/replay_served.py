"""Experience in and batches out of a replay server, to and from other processes on this host.

Vector observations of 4 float32, capacity 2²⁰, batches of 512 whose priorities are updated. Every
round measures every system, one after the other, in windows of `--window-s`; figures are medians
over the rounds. The limit is a bare ZeroMQ + numba loop without any checks (`peers.bare_zmq`) that
moves the same bytes.
"""

import statistics
import sys
from collections import defaultdict

from tests.benchmarks.peers import run_script
from tests.benchmarks.report import Figure, report
from tests.benchmarks.served import Rates, ServedReplay, Workload, measure_round

CHUNKS = (50, 1024)
"""Transitions in an insert of the Ray peer, and the end of its name in the figures: as Ape-X's
actors send them, and as ours do here. The larger is worth up to 20 times the rate."""

QUANTITIES = {
    "in_1": ("in_1_writer", "transitions/s"),
    "in_2": ("in_2_writers", "transitions/s"),
    "out": ("out_1_reader", "batches/s"),
    "both_in": ("both_in_2_writers", "transitions/s"),
    "both_out": ("both_out_1_reader", "batches/s"),
}
"""Field of `Rates`: what it is called, and its unit."""


def run(
    rounds: int = 3,
    window_s: float = 3.0,
    blocks: int = 16,
    peer: bool = True,
    peer_python: str = sys.executable,
    json: bool = False,
) -> None:
    """Transitions in and batches out of a replay server, per second.

    Args:
        rounds: Rounds in which every system is started and measured once.
        window_s: Seconds for each of the four windows of a system in a round.
        blocks: Blocks of 64 transitions in an insert, ours and the bare loop's.
        peer: Measure a Ray actor around cpprb, too.
        peer_python: The Python in which Ray and cpprb are installed.
        json: Print one line of JSON for each figure.
    """
    workload = Workload(blocks=blocks)
    report(figures(workload, rounds, window_s, peer_python if peer else None), as_json=json)


def figures(
    workload: Workload, rounds: int, window_s: float, peer_python: str | None
) -> list[Figure]:
    """Ours beside the bound and the best peer, then each peer's own."""
    ours, bound = _systems()
    measured: dict[str, list[Rates]] = defaultdict(list)
    chunks = list(CHUNKS) if peer_python else []
    for _ in range(rounds):
        for system in (ours, bound):
            measured[system.name].append(measure_round(system, workload, window_s))
        for chunk in chunks:
            options = ["--chunk", str(chunk), "--window-s", str(window_s)]
            printed = run_script(str(peer_python), "ray_cpprb", options)
            if printed is None:
                chunks = []
                break
            measured[f"ray_cpprb_{chunk}"].append(Rates(**printed[0]))
    medians = {
        name: {
            field: statistics.median(getattr(rates, field) for rates in rounds_of)
            for field in QUANTITIES
        }
        for name, rounds_of in measured.items()
    }
    peers = [name for name in medians if name not in (ours.name, bound.name)]
    result = []
    for field, (name, unit) in QUANTITIES.items():
        best = max(peers, key=lambda peer: medians[peer][field], default=None)
        result.append(
            Figure(
                f"replay_served.{name}",
                medians[ours.name][field],
                unit,
                limit=medians[bound.name][field],
                peer=None if best is None else medians[best][field],
                peer_name=best,
            )
        )
    for peer in peers:
        for field, (name, unit) in QUANTITIES.items():
            result.append(Figure(f"replay_served.{name}[{peer}]", medians[peer][field], unit))
    return result


def _systems() -> tuple[ServedReplay, ServedReplay]:
    """Ours and the bound."""
    from tests.benchmarks.own_replay import OWN_REPLAY
    from tests.benchmarks.peers.bare_zmq import BARE_ZMQ

    return OWN_REPLAY, BARE_ZMQ
