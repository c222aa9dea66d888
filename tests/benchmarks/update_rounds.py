"""A learner that trains on one batch again and again, in a process of its own, a round at a time.

    python -m tests.benchmarks.update_rounds minatar 256 bfloat16 cpu

measures a round of updates for each line on stdin. `tests.benchmarks.learner_update` runs one such
process for each variant, and takes rounds from them in turn.
"""

import sys
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from learner.host_memory import keep_freed_memory
from learner.update import QLearner, TrainBatch
from tests.benchmarks.contestants import Round, serve_rounds
from tests.updates import EAGER, make_batch, make_config, make_learner

WARM_UP = 2
"""Updates before a round, not timed: other processes had the caches."""
ROUND_S = 0.3
"""A round lasts this long, and two updates at least."""
SETTLE = 8
"""Updates before the first round: compiles, records, times cuDNN's algorithms. In its turn, since
what is timed beside others may be chosen wrongly."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs from eager float32 in one thread."""

    changes: dict[str, Any] = field(default_factory=dict)
    """Of the configuration."""
    threads: int = 1
    keep_memory: bool = False


_DEFAULTS = {"fused_optimizer": True, "autocast": "auto", "memory_format": "auto"}
_GRAPHED = {"fused_optimizer": True, "cuda_graph": True}
_LAST = {"memory_format": "channels_last"}
_LOW = {"autocast": "bfloat16"} | _LAST

CPU_VARIANTS = {
    "eager": Variant(),
    "fused": Variant({"fused_optimizer": True}),
    "memory kept": Variant(keep_memory=True),
    "channels_last": Variant(_LAST),
    "bfloat16": Variant({"autocast": "bfloat16"}),
    "compiled": Variant({"compile_update": True}),
    "2 threads": Variant(threads=2),
    "defaults": Variant(_DEFAULTS, keep_memory=True),
    "defaults, channels_last": Variant(_DEFAULTS | _LAST, keep_memory=True),
    "defaults, compiled": Variant(_DEFAULTS | {"compile_update": True}, keep_memory=True),
    "defaults, channels_last, compiled": Variant(
        _DEFAULTS | _LAST | {"compile_update": True}, keep_memory=True
    ),
    "defaults, 2 threads": Variant(_DEFAULTS, threads=2, keep_memory=True),
    "rmsprop": Variant({"optimizer": "rmsprop"}, keep_memory=True),
    "rmsprop, compiled": Variant({"optimizer": "rmsprop", "compile_update": True}, 1, True),
}
CUDA_VARIANTS = {
    "eager": Variant(),
    "fused": Variant({"fused_optimizer": True}),
    "channels_last": Variant(_LAST),
    "bfloat16": Variant({"autocast": "bfloat16"}),
    "bfloat16, channels_last": Variant(_LOW),
    "compiled": Variant({"compile_update": True}),
    "graph": Variant({"cuda_graph": True}),
    "defaults": Variant(_DEFAULTS),
    "fused, graph": Variant(_GRAPHED),
    "fused, compiled, graph": Variant(_GRAPHED | {"compile_update": True}),
    "all": Variant(_GRAPHED | _LOW | {"compile_update": True}),
    "rmsprop": Variant({"optimizer": "rmsprop"}),
    "rmsprop, compiled, graph": Variant(
        {"optimizer": "rmsprop", "compile_update": True, "cuda_graph": True}
    ),
}


def variants(device: str) -> dict[str, Variant]:
    return CUDA_VARIANTS if device.startswith("cuda") else CPU_VARIANTS


def time_round(learner: QLearner, batch: TrainBatch) -> Round:
    """ms of each update, and of the process's CPUs meanwhile.

    Results are read as the learner's loop does: on a GPU while the next update runs.
    """
    times: Round = {"wall": [], "cpu": []}
    overlap = learner.device.type == "cuda"
    pending = None
    for _ in range(WARM_UP):
        learner.update(batch).read()
    until_s = time.perf_counter() + ROUND_S
    while len(times["wall"]) < 2 or time.perf_counter() < until_s:
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        result = learner.update(batch)
        if not overlap:
            result.read()
        elif pending is not None:
            pending.read()
        pending = result
        times["wall"].append(1e3 * (time.perf_counter() - start_s))
        times["cpu"].append(1e3 * (time.process_time() - start_cpu_s))
    return times


def main() -> None:
    network, batch_size, name, device = sys.argv[1:]
    variant = variants(device)[name]
    torch.set_num_threads(variant.threads)
    if variant.keep_memory:
        keep_freed_memory()
    config = make_config(network, batch_size=int(batch_size), **(EAGER | variant.changes))
    learner, batch = make_learner(config, device), make_batch(config, 0, device)

    def measure() -> Round:
        while learner.updates < SETTLE:
            learner.update(batch).read()
        return time_round(learner, batch)

    serve_rounds(measure)


if __name__ == "__main__":
    main()
