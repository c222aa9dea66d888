"""ms of a learner's update on a batch that is there already: each option beside eager float32.

Each variant has its own process; rounds are taken from all of them in turn, so that a slow minute
of the machine is everybody's. Figures are medians over all updates of all rounds.
"""

import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Literal

import torch

from tests.benchmarks.contestants import Contestant, take_turns
from tests.benchmarks.peers import Peers
from tests.benchmarks.report import Figure, report
from tests.benchmarks.update_rounds import variants

CASES = ("mlp_128", "mlp_512", "minatar_256", "minatar_512", "nature_32", "nature_512")
"""Networks and their batch sizes."""
BUSY = "while True: pass"


def run(
    cases: tuple[str, ...] = CASES,
    only: tuple[str, ...] = (),
    rounds: int = 10,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    busy_cores: int = 0,
    count: Literal["wall", "cpu"] = "wall",
    json: bool = False,
) -> None:
    """ms of an update with each of the learner's options.

    Args:
        cases: Networks and their batch sizes, such as minatar_256.
        only: Variants, beside eager (all of them if empty).
        rounds: Rounds of 0.3 s or two updates, whichever is longer, of each variant.
        device: Where to train: cpu or cuda.
        busy_cores: Processes that do nothing but keep a core busy, as actors do.
        count: Time that passed, or the process's time on its CPUs, all threads together: that one
            tells variants of one thread apart on a machine that is not idle.
        json: Print one line of JSON for each figure.
    """
    with ExitStack() as stack:
        for _ in range(busy_cores):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(busy.kill)
        peers = Peers(())
        for case in cases:
            report(figures((case,), only, rounds, peers, device, count), as_json=json)
    if peers.failed:
        raise SystemExit(f"not measured: {', '.join(peers.failed)}")


def figures(
    cases: Iterable[str],
    only: Sequence[str],
    rounds: int,
    peers: Peers,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    count: str = "wall",
) -> list[Figure]:
    """Each variant beside eager float32 in one thread; those that fail are told to `peers`."""
    names = ("eager", *(only or list(variants(device))[1:]))
    result = []
    for case in cases:
        contestants = [
            Contestant(f"{case}: {name}", "update_rounds", [*case.split("_"), name, device])
            for name in names
        ]
        times = take_turns(contestants, rounds, peers, go_on=True)
        medians = {name: statistics.median(found[count]) for name, found in times.items()}
        result += [
            Figure(
                f"learner_update.{name}",
                median,
                "ms",
                peer=medians.get(f"{case}: eager"),
                peer_name="eager",
            )
            for name, median in medians.items()
        ]
    return result
