"""cpprb's multi-process prioritised replay: shared memory that all processes of one host lock in
turn, without a server. For the command line see `script`.

cpprb stores finished transitions: n-step returns, discounts, stacks and next observations are made
outside, and not measured.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.benchmarks.peers import unavailable
from tests.benchmarks.peers.script import measure
from tests.benchmarks.served import SPAWN, Endpoint, Progress, ServedReplay, Workload


def columns(workload: Workload) -> dict[str, dict[str, Any]]:
    """One transition, as cpprb wants to be told."""
    obs = {"shape": workload.stack_shape, "dtype": np.dtype(workload.obs_dtype)}
    return {
        "obs": obs,
        "action": {"dtype": np.int32},
        "n_step_return": {},
        "discount": {},
        "next_obs": obs,
    }


@contextmanager
def _serving(workload: Workload) -> Iterator[Endpoint]:
    from cpprb import MPPrioritizedReplayBuffer

    yield MPPrioritizedReplayBuffer(
        workload.capacity, columns(workload), alpha=workload.priority_exponent, ctx=SPAWN
    )


def _write(buffer: Endpoint, workload: Workload, progress: Progress) -> None:
    transitions = workload.transitions(progress.seed, workload.insert_size)
    while not progress.stopped:
        buffer.add(**transitions)
        progress.add(workload.insert_size)


def _confirm(buffer: Endpoint, workload: Workload, inserts: int) -> list[float]:
    transitions = workload.transitions(0, workload.insert_size)
    times_s = []
    for _ in range(inserts):
        start_s = time.perf_counter()
        buffer.add(**transitions)
        times_s.append(time.perf_counter() - start_s)
    return times_s


def _read(buffer: Endpoint, workload: Workload, progress: Progress) -> None:
    rng = np.random.default_rng(progress.seed)
    priority = rng.exponential(size=workload.batch_size).astype(np.float32)
    while not progress.stopped:
        batch = buffer.sample(workload.batch_size, beta=workload.importance_sampling_exponent)
        progress.add(1)
        buffer.update_priorities(batch["indexes"], priority)


def main() -> None:
    try:
        import cpprb  # noqa: F401
    except ImportError as error:
        unavailable(error, "cpprb")
    measure(ServedReplay("mp_cpprb", _serving, _write, _read, _confirm))


if __name__ == "__main__":
    main()
