"""Prioritised replay as a Ray actor around cpprb's buffer: the best peer that serves by messages.
For the command line see `script`.

Two sizes of insert are of interest: 50 transitions, as Ape-X's actors send them, and as many as a
vector of environments brings; the larger is worth up to 20 times the rate. cpprb stores finished
transitions, as `mp_cpprb` says. An actor's call is a message; a reader's call returns the
priorities of the batch before and takes the next one, which is one call less than Ray's users
usually make.
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.benchmarks.peers import unavailable
from tests.benchmarks.peers.mp_cpprb import columns
from tests.benchmarks.peers.script import measure
from tests.benchmarks.served import Endpoint, Progress, ServedReplay, Workload

_NAMESPACE, _ACTOR = "zapex-benchmark", "replay"
_OBJECT_STORE_BYTES = 2**31
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


class _Replay:
    """Runs in the Ray actor's process."""

    def __init__(self, workload: Workload) -> None:
        from cpprb import PrioritizedReplayBuffer

        self._workload = workload
        self._buffer = PrioritizedReplayBuffer(
            workload.capacity, columns(workload), alpha=workload.priority_exponent
        )

    def insert(self, transitions: dict[str, Any]) -> None:
        self._buffer.add(**transitions)

    def update_and_sample(self, indexes: Any, priorities: Any) -> dict[str, Any]:
        if indexes is not None:
            self._buffer.update_priorities(indexes, priorities)
        batch: dict[str, Any] = self._buffer.sample(
            self._workload.batch_size, beta=self._workload.importance_sampling_exponent
        )
        return batch


@contextmanager
def _serving(workload: Workload) -> Iterator[Endpoint]:
    import ray

    context = ray.init(
        num_cpus=2,
        include_dashboard=False,
        namespace=_NAMESPACE,
        object_store_memory=_OBJECT_STORE_BYTES,
        **_QUIET,
    )
    try:
        actor = ray.remote(num_cpus=0)(_Replay).options(name=_ACTOR).remote(workload)
        ray.get(actor.__ray_ready__.remote())
        yield str(context.address_info["gcs_address"])
    finally:
        ray.shutdown()


@contextmanager
def _actor_at(endpoint: Endpoint) -> Iterator[Any]:
    import ray

    ray.init(address=endpoint, namespace=_NAMESPACE, **_QUIET)
    try:
        yield ray.get_actor(_ACTOR)
    finally:
        ray.shutdown()


def _write(endpoint: Endpoint, workload: Workload, progress: Progress) -> None:
    import ray

    transitions = workload.transitions(progress.seed, workload.insert_size)
    with _actor_at(endpoint) as actor:
        pending: deque[Any] = deque()
        while not progress.stopped:
            if len(pending) < workload.in_flight:
                pending.append(actor.insert.remote(transitions))
            else:
                ray.get(pending.popleft())
                progress.add(workload.insert_size)


def _confirm(endpoint: Endpoint, workload: Workload, inserts: int) -> list[float]:
    import ray

    transitions = workload.transitions(0, workload.insert_size)
    times_s = []
    with _actor_at(endpoint) as actor:
        for _ in range(inserts):
            start_s = time.perf_counter()
            ray.get(actor.insert.remote(transitions))
            times_s.append(time.perf_counter() - start_s)
    return times_s


def _read(endpoint: Endpoint, workload: Workload, progress: Progress) -> None:
    import ray

    rng = np.random.default_rng(progress.seed)
    priorities = rng.exponential(size=workload.batch_size).astype(np.float32)
    with _actor_at(endpoint) as actor:
        pending = deque(
            actor.update_and_sample.remote(None, None) for _ in range(workload.in_flight)
        )
        while not progress.stopped:
            batch = ray.get(pending.popleft())
            progress.add(1)
            pending.append(actor.update_and_sample.remote(batch["indexes"], priorities))


def main() -> None:
    # Read by Ray when it is imported, here and in the processes that follow.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        import cpprb  # noqa: F401
        import ray  # noqa: F401
    except ImportError as error:
        unavailable(error, "cpprb", "ray")
    measure(ServedReplay("ray_cpprb", _serving, _write, _read, _confirm))


if __name__ == "__main__":
    main()
