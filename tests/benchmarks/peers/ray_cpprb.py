"""Prioritised replay as a Ray actor around cpprb's buffer: the best peer that serves by messages.

    python -m tests.benchmarks.peers.ray_cpprb --chunk 50 --window-s 3

prints one round of `tests.benchmarks.served.Rates`. Two sizes of insert are of interest: 50
transitions, as Ape-X's actors send them, and 1024, as many as zapex sends in the same benchmark.

cpprb stores finished transitions: n-step returns, discounts and next observations are computed
outside, and not measured. An actor's call is a message; a reader's call returns the priorities of
the batch before and takes the next one, which is one call less than Ray's users usually make.
"""

import argparse
import contextlib
import functools
import json
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.benchmarks.peers import absent
from tests.benchmarks.served import Progress, ServedReplay, Workload, measure_round

_NAMESPACE, _ACTOR = "zapex-benchmark", "replay"
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


class _Replay:
    """Runs in the Ray actor's process."""

    def __init__(self, workload: Workload) -> None:
        from cpprb import PrioritizedReplayBuffer

        self._workload = workload
        self._buffer = PrioritizedReplayBuffer(
            workload.capacity,
            {
                "obs": {"shape": workload.obs_size},
                "action": {"dtype": np.int32},
                "n_step_return": {},
                "discount": {},
                "next_obs": {"shape": workload.obs_size},
            },
            alpha=workload.priority_exponent,
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
def _serving(workload: Workload) -> Iterator[str]:
    import ray

    context = ray.init(
        num_cpus=2,
        include_dashboard=False,
        namespace=_NAMESPACE,
        object_store_memory=2**29,
        **_QUIET,
    )
    try:
        actor = ray.remote(num_cpus=0)(_Replay).options(name=_ACTOR).remote(workload)
        ray.get(actor.__ray_ready__.remote())
        yield str(context.address_info["gcs_address"])
    finally:
        ray.shutdown()


@contextmanager
def _actor_at(endpoint: str) -> Iterator[Any]:
    import ray

    ray.init(address=endpoint, namespace=_NAMESPACE, **_QUIET)
    try:
        yield ray.get_actor(_ACTOR)
    finally:
        ray.shutdown()


def _write(endpoint: str, workload: Workload, progress: Progress, chunk: int) -> None:
    import ray

    rng = np.random.default_rng(progress.seed)
    shape = (chunk, workload.obs_size)
    transitions = {
        "obs": rng.standard_normal(shape).astype(np.float32),
        "action": rng.integers(0, workload.actions, chunk, dtype=np.int32),
        "n_step_return": rng.standard_normal(chunk).astype(np.float32),
        "discount": np.full(chunk, workload.discount**workload.n_step, np.float32),
        "next_obs": rng.standard_normal(shape).astype(np.float32),
        "priorities": rng.exponential(size=chunk).astype(np.float32),
    }
    with _actor_at(endpoint) as actor:
        pending: deque[Any] = deque()
        while not progress.stopped:
            if len(pending) < workload.in_flight:
                pending.append(actor.insert.remote(transitions))
            else:
                ray.get(pending.popleft())
                progress.add(chunk)


def _read(endpoint: str, workload: Workload, progress: Progress) -> None:
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


def ray_cpprb(chunk: int) -> ServedReplay:
    """The system under test, with `chunk` transitions in an insert."""
    write = functools.partial(_write, chunk=chunk)
    return ServedReplay(f"ray_cpprb_{chunk}", _serving, write, _read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--chunk", type=int, default=50, help="transitions in an insert")
    parser.add_argument("--window-s", type=float, default=3.0)
    options = parser.parse_args()
    # Read by Ray when it is imported, here and in the processes that follow.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        import cpprb  # noqa: F401
        import ray  # noqa: F401
    except ImportError as error:
        absent(str(error.name))
    # Ray writes to stdout as it pleases; the result is the only line there.
    with contextlib.redirect_stdout(None):
        rates = measure_round(ray_cpprb(options.chunk), Workload(), options.window_s)
    print(json.dumps(rates.as_dict()))


if __name__ == "__main__":
    main()
