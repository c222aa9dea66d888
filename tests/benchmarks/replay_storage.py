"""What it costs that nothing is lost: checksums while inserting, and the time a restart takes.

Inserts go into the real table over a file, with and without checksums in rounds that alternate; the
limit is the same table without them. From a message's bytes to those of its acknowledgement; frames
come as actors send them, compressed. The socket's part comes on top, which makes the checksums'
share smaller. Seconds are the core's, so that other processes do not count.

A restart is the whole way from the file to a table that can be drawn from: as after a crash of the
process, and as after one of the machine, when every block is read and checked (here from the
system's cache; a disk takes its own time).
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import numpy as np

from common import codec
from common.block_columns import HOME
from common.compression import DELTA
from common.messages import Insert
from common.packing import compressed
from replay_server import storage
from replay_server.server import build_table
from replay_server.table import Table
from tests.benchmarks.own_replay import manifest_of
from tests.benchmarks.report import Figure, report
from tests.benchmarks.served import FRAMES, VECTORS

WARM_UP, ROUNDS = 20, 200
TOGETHER = 32
"""Inserts in a round."""
ALLOWED_RESTART_S = 2.0
WORKLOADS = {
    "vectors.50": replace(VECTORS, blocks=1, length=50),
    "vectors.1024": replace(VECTORS, blocks=64, length=16),
    "frames.64": replace(FRAMES, blocks=1, capacity=20_000),
}


def run(transitions: int = 2_000_000, json: bool = False) -> None:
    """Cost of checksums, and of restarts.

    Args:
        transitions: Vectors in the file that is restarted from.
        json: Print one line of JSON for each figure.
    """
    report(figures(transitions), as_json=json)


def figures(transitions: int = 2_000_000) -> list[Figure]:
    """Inserts by workload, then restarts."""
    return [*(_inserts(name) for name in WORKLOADS), *_restarts(transitions)]


class _Filled:
    """A table over a file, and what is inserted into it again and again."""

    def __init__(self, name: str, directory: str, capacity: int | None = None) -> None:
        workload = WORKLOADS[name]
        if capacity is not None:
            workload = replace(workload, capacity=capacity)
        self.manifest, self.path = manifest_of(workload), Path(directory) / "storage"
        self.table: Table = build_table(self.manifest, self.path)
        experience = workload.experience(seed=0)
        self._columns: list[Any] = list(experience)
        self._columns[0] = compressed(experience.obs, DELTA)
        self.inserts = 0

    def insert(self) -> float:
        """Decode, insert and acknowledge `TOGETHER` messages; the core's seconds."""
        messages = []
        for _ in range(TOGETHER):
            message = Insert(0, self.inserts, 0, *self._columns, oldest=self.inserts)
            messages.append([bytes(frame) for frame in codec.encode(message)])
            self.inserts += 1
        since_s = time.thread_time()
        for frames in messages:
            for _, ack in self.table.handle(b"actor", codec.decode(frames), now_s=0.0):
                codec.encode(ack)
        return time.thread_time() - since_s


def _inserts(name: str) -> Figure:
    times_s: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix="zapex-") as directory:
        filled = _Filled(name, directory)
        for round_ in range(-WARM_UP, ROUNDS):
            for checked in (True, False):
                with _checksums(checked):
                    elapsed_s = filled.insert()
                    if round_ >= 0:
                        times_s[checked].append(elapsed_s)
    transitions = TOGETHER * WORKLOADS[name].insert_size
    return Figure(
        f"replay_storage.inserts.{name}",
        transitions / statistics.median(times_s[True]),
        "transitions/s",
        limit=transitions / statistics.median(times_s[False]),
        limit_name="without checksums",
    )


@numba.njit
def _no_checksum(slot, number, session, sequence, version, obs, obs_bytes, step, step_bytes):  # type: ignore[no-untyped-def]
    return np.uint64(0)


_CHECKED = storage._write_columns
_CODE: Any = _CHECKED.py_func
_UNCHECKED = numba.njit(nogil=True)(
    FunctionType(_CODE.__code__, {**_CODE.__globals__, "block_checksum": _no_checksum})
)


@contextmanager
def _checksums(wanted: bool) -> Iterator[None]:
    storage._write_columns = _CHECKED if wanted else _UNCHECKED
    try:
        yield
    finally:
        storage._write_columns = _CHECKED


def _restarts(transitions: int) -> list[Figure]:
    found = []
    with tempfile.TemporaryDirectory(prefix="zapex-") as directory:
        filled = _Filled("vectors.1024", directory, transitions)
        blocks = filled.table.storage
        while blocks.next_number <= blocks.slots:
            filled.insert()
        for what in ("process", "machine"):
            if what == "machine":
                blocks.counters[HOME] = 0  # Of no kernel that runs.
            since_s = time.perf_counter()
            restarted = build_table(filled.manifest, filled.path)
            elapsed_s = time.perf_counter() - since_s
            assert restarted.sampler.size == filled.table.sampler.size
            assert restarted.storage.torn == 0
            found.append(
                Figure(
                    f"replay_storage.restart_after_crash_of_the_{what}",
                    elapsed_s,
                    "s",
                    limit=ALLOWED_RESTART_S,
                    limit_name=f"for {transitions:,} vectors",
                )
            )
    return found
