"""Bytes of resident memory for each transition in cpprb's prioritised buffer.

    python -m tests.benchmarks.peers.cpprb_memory --workload frames

prints {"name", "bytes"} twice: for finished transitions, stacks whole, and with cpprb's `next_of`
and `stack_compress`, which store each frame once but need one environment's steps in order.
"""

import argparse
import json
import resource
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.peers import unavailable
from tests.benchmarks.peers.mp_cpprb import columns
from tests.benchmarks.served import WORKLOADS, Workload, child

_CHUNK = 1024
"""Transitions stored at once."""


def _resident_bytes() -> int:
    """Of this process (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _consecutive(workload: Workload) -> dict[str, Any]:
    """Steps of one environment, with stacks whose last axis is the stack, as cpprb compresses
    them."""
    transitions = workload.transitions(0, _CHUNK)
    frames = workload.random_obs(
        np.random.default_rng(0), (_CHUNK + workload.frame_stack, *workload.obs_shape)
    )
    for name, first in (("obs", 0), ("next_obs", 1)):
        stack = [frames[first + s :][:_CHUNK] for s in range(workload.frame_stack)]
        transitions[name] = stack[0] if len(stack) == 1 else np.stack(stack, axis=-1)
    return transitions


def _measure(workload: Workload, each_frame_once: bool, result: Connection) -> None:
    from cpprb import PrioritizedReplayBuffer

    spec, options = columns(workload), {}
    transitions = workload.transitions(0, _CHUNK)
    if each_frame_once:
        transitions = _consecutive(workload)
        spec["obs"]["shape"] = transitions["obs"].shape[1:]
        del spec["next_obs"]
        options = {"next_of": "obs"}
        if workload.frame_stack > 1:
            options["stack_compress"] = "obs"
    before = _resident_bytes()
    buffer = PrioritizedReplayBuffer(
        workload.capacity, spec, alpha=workload.priority_exponent, **options
    )
    for _ in range(workload.capacity // _CHUNK):
        buffer.add(**transitions)
    result.send((_resident_bytes() - before) / workload.capacity)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", choices=WORKLOADS, default="frames")
    options = parser.parse_args()
    try:
        import cpprb  # noqa: F401
    except ImportError as error:
        unavailable(error, "cpprb")
    for name, each_frame_once in (("cpprb", False), ("cpprb, each frame once", True)):
        with child(_measure, WORKLOADS[options.workload], each_frame_once) as measuring:
            print(json.dumps({"name": name, "bytes": measuring.recv()}))


if __name__ == "__main__":
    main()
