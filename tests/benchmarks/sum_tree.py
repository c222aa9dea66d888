"""µs to sample 512 leaves of a tree of 2²¹ priorities, to update those 512, and both.

Leaves are drawn as for a batch, one from each of 512 equal parts of the total. The peers are told
the places, ours finds them itself and gives probabilities, too; cpprb draws as it likes.
Each tree has its own process; rounds of 100 iterations are taken from all of them in turn, so that
a slow minute of the machine is everybody's. Figures are medians over all iterations of all rounds.
"""

import statistics
import sys

from tests.benchmarks.contestants import Contestant, take_turns
from tests.benchmarks.peers import Peers
from tests.benchmarks.report import Figure, report
from tests.benchmarks.tree_rounds import TREES

QUANTITIES = ("sample", "update", "both")


def run(
    rounds: int = 30,
    peers: bool = True,
    peer_python: tuple[str, ...] = (sys.executable,),
    json: bool = False,
) -> None:
    """µs to sample and to update 512 of 2²¹ priorities.

    Args:
        rounds: Rounds of 100 iterations for each tree.
        peers: Measure the peers' trees beside ours.
        peer_python: The Pythons in which peers are installed.
        json: Print one line of JSON for each figure.
    """
    report(figures(rounds, Peers(peer_python if peers else ())), as_json=json)


def figures(rounds: int, peers: Peers) -> list[Figure]:
    """Ours beside the best peer, then each peer's own."""
    medians = _medians(rounds, peers)
    ours, theirs = medians.pop("zapex"), medians
    result = []
    for quantity in QUANTITIES:
        best = min(theirs, key=lambda name: theirs[name][quantity], default=None)
        result.append(
            Figure(
                f"sum_tree.{quantity}_512",
                ours[quantity],
                "µs",
                peer=None if best is None else theirs[best][quantity],
                peer_name=best,
            )
        )
    for name, times in theirs.items():
        result += [Figure(f"sum_tree.{q}_512[{name}]", times[q], "µs") for q in QUANTITIES]
    return result


def _medians(rounds: int, peers: Peers) -> dict[str, dict[str, float]]:
    """Median µs by tree and quantity."""
    contestants = [
        Contestant(name, "tree_rounds", [name], is_peer=name != "zapex") for name in TREES
    ]
    return {
        name: {quantity: statistics.median(times) for quantity, times in by_quantity.items()}
        for name, by_quantity in take_turns(contestants, rounds, peers).items()
    }
