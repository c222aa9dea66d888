"""Learner updates per second: alone, fed by shared memory, fed by wire.

The real update on the learner's device. Alone, it takes the same batch again and again: that is the
limit. Fed, batches come through the real feed from a replay server in another process, and
priorities go home. One window of each in turn, in one process for each network and batch; medians.
`16_ahead`: with `prefetch_batches` = 16 instead of 4, as in the paper (ADR 19 has why that is not
the default). On two cores and a learner of one thread, the server (and a feed's thread) has the
second core. On a GPU there is one more way, `device_mirror`: frames are gathered on the device,
from a copy there. Nothing is inserted meanwhile, so that its blocks have crossed already: at best
it is as fast.
"""

import statistics
from typing import NamedTuple

from tests.benchmarks.contestants import Contestant, Round, take_turns
from tests.benchmarks.peers import Peers
from tests.benchmarks.report import Figure, report


class Case(NamedTuple):
    network: str
    batch_size: int


CASES = (
    Case("mlp", 512),
    Case("minatar", 256),
    Case("nature", 32),
    Case("nature", 128),
    Case("nature", 512),
)


def run(rounds: int = 5, window_s: float = 2.0, threads: int = 1, json: bool = False) -> None:
    """Learner updates per second, alone and fed.

    Args:
        rounds: Windows of each.
        window_s: Seconds for each, and as many updates more as it takes to end one.
        threads: PyTorch's, for one operation.
        json: Print one line of JSON for each figure.
    """
    report(figures(rounds, window_s, threads), as_json=json)


def figures(rounds: int, window_s: float, threads: int = 1) -> list[Figure]:
    """Each way of feeding beside the update alone."""
    result = []
    for case in CASES:
        options = ["--network", case.network, "--batch-size", str(case.batch_size)]
        rates = updates_per_s(options, rounds, window_s, threads)
        where = f"learner_fed.{case.network}.{case.batch_size}"
        alone = statistics.median(rates.pop("static"))
        result.append(Figure(f"{where}.alone", alone, "updates/s"))
        for way, values in rates.items():
            fed = statistics.median(values)
            result.append(
                Figure(f"{where}.{way}", fed, "updates/s", alone, limit_name="the update alone")
            )
    return result


def updates_per_s(options: list[str], rounds: int, window_s: float, threads: int) -> Round:
    """Updates per second by way and round; empty where the environment is not installed.

    Args:
        options: of `fed_rounds`: a network and a batch size, or a preset.
    """
    options = [*options, "--threads", str(threads), "--window-s", str(window_s)]
    contestant = Contestant("learner", "fed_rounds", options)
    return take_turns([contestant], rounds, Peers(())).get("learner", {})
