"""Reverb's prioritised table, served by its C++ server. For the command line see `script`.

Frames are appended once and items refer to them, as Reverb's users do: a transition is a window of
S + n observations and n rewards. Vectors are stored as finished transitions, which is faster where
an observation is small. Batches come from Reverb's TensorFlow dataset, its fastest reader, with the
settings that were best for it. An insert is so many items; Reverb confirms each of them.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.benchmarks.peers import unavailable
from tests.benchmarks.peers.script import measure
from tests.benchmarks.served import Endpoint, Progress, ServedReplay, Workload

_TABLE = "replay"
_MAX_ITEMS = 1 << 16
"""Filling a larger table takes minutes, and sampling does not depend on it."""
_VECTOR_CHUNK = 4
"""Steps that Reverb compresses and sends together; frames: a window."""


def _columns(workload: Workload) -> dict[str, tuple[int, tuple[int, ...], str]]:
    """What an item is made of, by column: steps, shape and dtype of each."""
    n, window = workload.n_step, workload.frame_stack + workload.n_step
    obs = (workload.obs_shape, workload.obs_dtype)
    if workload.frame_stack > 1:
        return {
            "obs": (window, *obs),
            "action": (1, (), "<i4"),
            "reward": (n, (), "<f4"),
            "discount": (n, (), "<f4"),
        }
    return {
        "obs": (1, *obs),
        "action": (1, (), "<i4"),
        "n_step_return": (1, (), "<f4"),
        "discount": (1, (), "<f4"),
        "next_obs": (1, *obs),
    }


@contextmanager
def _serving(workload: Workload) -> Iterator[Endpoint]:
    import reverb
    import tensorflow as tf

    table = reverb.Table(
        _TABLE,
        sampler=reverb.selectors.Prioritized(workload.priority_exponent),
        remover=reverb.selectors.Fifo(),
        max_size=workload.capacity,
        rate_limiter=reverb.rate_limiters.MinSize(workload.batch_size),
        signature={
            name: tf.TensorSpec((steps, *shape), tf.as_dtype(np.dtype(dtype)))
            for name, (steps, shape, dtype) in _columns(workload).items()
        },
    )
    server = reverb.Server([table])
    try:
        yield f"localhost:{server.port}"
    finally:
        server.stop()


class _Writer:
    """Appends the same steps over and over, each with an item."""

    def __init__(self, client: Any, workload: Workload, seed: int) -> None:
        self._columns = _columns(workload)
        window = max(steps for steps, _, _ in self._columns.values())
        chunk = window if window > 1 else _VECTOR_CHUNK
        kept = max(window, chunk)
        self._writer = client.trajectory_writer(num_keep_alive_refs=kept)
        rng = np.random.default_rng(seed)
        size = workload.insert_size
        self._steps = {}
        for name, (_, shape, dtype) in self._columns.items():
            self._writer.configure((name,), num_keep_alive_refs=kept, max_chunk_length=chunk)
            self._steps[name] = rng.integers(0, 2, (size, *shape)).astype(dtype)
        for name in {"obs", "next_obs"} & self._steps.keys():
            self._steps[name] = workload.random_obs(rng, (size, *workload.obs_shape))
        self._priority = rng.exponential(size=size)
        for step in range(window):
            self._append(step % size)

    def _append(self, step: int) -> None:
        self._writer.append({name: column[step] for name, column in self._steps.items()})

    def insert(self) -> None:
        """One insert's items, not confirmed yet."""
        history = self._writer.history
        for step, priority in enumerate(self._priority):
            self._append(step)
            item = {name: history[name][-n:] for name, (n, _, _) in self._columns.items()}
            self._writer.create_item(_TABLE, priority, item)

    def wait(self, unconfirmed: int) -> None:
        """Until so many items at most are not confirmed."""
        self._writer.flush(block_until_num_items=unconfirmed)

    def close(self) -> None:
        self._writer.close()


def _write(endpoint: Endpoint, workload: Workload, progress: Progress) -> None:
    import reverb

    writer = _Writer(reverb.Client(endpoint), workload, progress.seed)
    while not progress.stopped:
        writer.insert()
        writer.wait((workload.in_flight - 1) * workload.insert_size)
        progress.add(workload.insert_size)
    writer.close()


def _confirm(endpoint: Endpoint, workload: Workload, inserts: int) -> list[float]:
    import reverb

    writer = _Writer(reverb.Client(endpoint), workload, seed=0)
    times_s = []
    for _ in range(inserts):
        start_s = time.perf_counter()
        writer.insert()
        writer.wait(0)
        times_s.append(time.perf_counter() - start_s)
    writer.close()
    return times_s


def _read(endpoint: Endpoint, workload: Workload, progress: Progress) -> None:
    import reverb

    client = reverb.Client(endpoint)
    rng = np.random.default_rng(progress.seed)
    priority = rng.exponential(size=workload.batch_size).tolist()
    batches = reverb.TrajectoryDataset.from_table_signature(
        endpoint,
        _TABLE,
        num_workers_per_iterator=1,
        max_in_flight_samples_per_worker=workload.batch_size,
    ).batch(workload.batch_size)
    for batch in batches.as_numpy_iterator():
        progress.add(1)
        client.mutate_priorities(_TABLE, dict(zip(batch.info.key.tolist(), priority, strict=True)))
        if progress.stopped:
            return


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Its writer warns of every insert under way.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        import reverb  # noqa: F401
    except ImportError as error:
        unavailable(error, "reverb")
    measure(ServedReplay("reverb", _serving, _write, _read, _confirm), capacity=_MAX_ITEMS)


if __name__ == "__main__":
    main()
