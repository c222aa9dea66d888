"""ms of a learner's update on a batch that is there already: each option beside eager float32.

Each variant has its own process; rounds are taken from all of them in turn, so that a slow minute
of the machine is everybody's. Figures are medians over all updates of all rounds.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Literal

import torch
import tyro

from tests.benchmarks.report import Figure, report
from tests.benchmarks.update_rounds import variants

CASES = ("mlp_128", "mlp_512", "minatar_256", "minatar_512", "nature_32", "nature_512")
Case = Literal["mlp_128", "mlp_512", "minatar_256", "minatar_512", "nature_32", "nature_512"]
BUSY = "while True: pass"


def run(
    cases: tuple[Case, ...] = CASES,
    only: tuple[str, ...] = (),
    rounds: int = 10,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    busy_cores: int = 0,
    count: Literal["wall", "cpu"] = "wall",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """ms of an update with each of the learner's options.

    Args:
        cases: Networks and their batch sizes.
        only: Variants, beside eager (all of them if empty).
        rounds: Rounds of 0.3 s or two updates, whichever is longer, of each variant.
        device: Where to train: cpu or cuda.
        busy_cores: Processes that do nothing but keep a core busy, as actors do.
        count: Time that passed, or the process's time on its CPUs, all threads together: that one
            tells variants of one thread apart on a machine that is not idle.
        as_json: Print one line of JSON for each figure.
    """
    with ExitStack() as stack:
        for _ in range(busy_cores):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(busy.kill)
        for case in cases:
            report(figures(case, only, rounds, device, count), as_json=as_json)


def figures(
    case: str, only: Sequence[str], rounds: int, device: str, count: str = "wall"
) -> list[Figure]:
    """Each variant's time; the peer is eager float32 in one thread."""
    medians = _medians(case, ["eager", *(only or list(variants(device))[1:])], rounds, device)
    eager = medians["eager"][count]
    return [
        Figure(f"learner_update.{case}[{name}]", median[count], "ms", peer=eager, peer_name="eager")
        for name, median in medians.items()
    ]


def _medians(
    case: str, names: Sequence[str], rounds: int, device: str
) -> dict[str, dict[str, float]]:
    """Median ms by variant and kind of time."""
    with ExitStack() as stack:
        processes = {n: stack.enter_context(_process(case, n, device)) for n in names}
        times: dict[str, dict[str, list[float]]] = {n: {"wall": [], "cpu": []} for n in names}
        for _ in range(rounds):
            for name, process in processes.items():
                for kind, more in _next_round(process).items():
                    times[name][kind] += more
    return {
        name: {kind: statistics.median(values) for kind, values in kinds.items()}
        for name, kinds in times.items()
    }


@contextmanager
def _process(case: str, variant: str, device: str) -> Iterator["subprocess.Popen[str]"]:
    """A process with that variant, ready."""
    command = [sys.executable, "-m", "tests.benchmarks.update_rounds", *case.split("_")]
    with subprocess.Popen(
        [*command, variant, device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"{case}[{variant}] ended with exit status {process.wait()}")
        yield process


def _next_round(process: "subprocess.Popen[str]") -> dict[str, list[float]]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    times: dict[str, list[float]] = json.loads(process.stdout.readline())
    return times
