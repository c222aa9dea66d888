"""µs to sample 512 leaves of a tree of 2²¹ priorities, to update those 512, and both.

Each tree has its own process; rounds of 100 iterations are taken from all of them in turn, so that
a slow minute of the machine is everybody's. Figures are medians over all iterations of all rounds.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.benchmarks.peers import ABSENT, PeerError
from tests.benchmarks.report import Figure, report
from tests.benchmarks.tree_rounds import TREES

QUANTITIES = ("sample", "update", "both")


def run(
    rounds: int = 30, peer: bool = True, peer_python: str = sys.executable, json: bool = False
) -> None:
    """µs to sample and to update 512 of 2²¹ priorities.

    Args:
        rounds: Rounds of 100 iterations for each tree.
        peer: Measure the peers' trees beside ours.
        peer_python: The Python in which the peers are installed.
        json: Print one line of JSON for each figure.
    """
    report(figures(rounds, peer_python if peer else None), as_json=json)


def figures(rounds: int, peer_python: str | None) -> list[Figure]:
    """Ours beside the best peer, then each peer's own."""
    medians = _medians(rounds, peer_python)
    ours, peers = medians.pop("zapex"), medians
    result = []
    for quantity in QUANTITIES:
        best = min(peers, key=lambda name: peers[name][quantity], default=None)
        result.append(
            Figure(
                f"sum_tree.{quantity}_512",
                ours[quantity],
                "µs",
                peer=None if best is None else peers[best][quantity],
                peer_name=best,
            )
        )
    for name, times in peers.items():
        result += [Figure(f"sum_tree.{q}_512[{name}]", times[q], "µs") for q in QUANTITIES]
    return result


def _medians(rounds: int, peer_python: str | None) -> dict[str, dict[str, float]]:
    """Median µs by tree and quantity."""
    with ExitStack() as stack:
        processes = {}
        for name in TREES:
            python = sys.executable if name == "zapex" else peer_python
            if python is not None:
                process = stack.enter_context(_process(python, name))
                if process is not None:
                    processes[name] = process
        times: dict[str, dict[str, list[float]]] = {
            name: {quantity: [] for quantity in QUANTITIES} for name in processes
        }
        for _ in range(rounds):
            for name, process in processes.items():
                for quantity, more in _next_round(process).items():
                    times[name][quantity] += more
    return {
        name: {quantity: statistics.median(values) for quantity, values in by_quantity.items()}
        for name, by_quantity in times.items()
    }


@contextmanager
def _process(python: str, name: str) -> Iterator[subprocess.Popen[str] | None]:
    """A process with that tree, ready; None where it is not installed."""
    command = [python, "-m", "tests.benchmarks.tree_rounds", name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline():
            yield process
        elif process.wait() == ABSENT:
            yield None
        else:
            raise PeerError(f"exit status {process.returncode} from: {' '.join(command)}")


def _next_round(process: subprocess.Popen[str]) -> dict[str, list[float]]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    times: dict[str, list[float]] = json.loads(process.stdout.readline())
    return times
