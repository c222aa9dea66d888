"""The command line of the scripts that measure a peer's replay.

    python -m tests.benchmarks.peers.ray_cpprb --workload frames --insert 50 --window-s 3

prints one round of `tests.benchmarks.served.Rates`.
"""

import argparse
import contextlib
import json
from dataclasses import replace

from tests.benchmarks.served import WORKLOADS, ServedReplay, measure_round


def options_of(workload: str, insert_size: int, window_s: float) -> list[str]:
    """What `measure` understands: a name in `WORKLOADS`, transitions in an insert, seconds."""
    numbers = ["--insert", str(insert_size), "--window-s", str(window_s)]
    return ["--workload", workload, *numbers]


def measure(system: ServedReplay, capacity: int | None = None) -> None:
    """Prints the rates of one round. `capacity`: of the table, in transitions, if not the
    workload's own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", choices=WORKLOADS, default="vectors")
    parser.add_argument("--insert", type=int, default=50, help="transitions in an insert")
    parser.add_argument("--window-s", type=float, default=3.0)
    options = parser.parse_args()
    workload = replace(WORKLOADS[options.workload], blocks=1, length=options.insert)
    workload = replace(workload, capacity=capacity or workload.capacity)
    # Libraries write to stdout as they please; the result is the only line there.
    with contextlib.redirect_stdout(None):
        rates = measure_round(system, workload, options.window_s)
    print(json.dumps(rates.as_dict()))
