"""Rates at which a replay takes experience from, and gives batches to, other processes.

A system under test is a `ServedReplay`: how to start its server and what a writer's and a reader's
process do. The same driver measures all of them: it starts the processes, waits until every one is
moving, lets them settle, and reads their counters at both ends of a window. Only numpy and
`common.blocks` are needed, so that a peer can be driven from its own Python.
"""

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from common.blocks import RowKind

SPAWN = multiprocessing.get_context("spawn")
"""Nothing is inherited: no threads, sockets or random states of the driver."""

START_TIMEOUT_S = 120.0
SETTLE_S = 0.5
READ_BEFORE = 10
"""Batches read before anything is measured."""
WARM_UP, CONFIRMED = 50, 500
"""Inserts whose acknowledgement is awaited: first untimed, then timed."""


@contextmanager
def child(target: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """This end of a pipe to a process that runs `target(*arguments, other_end)`, and that ends when
    the pipe closes, at the latest."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()  # So that a process that dies is an EOFError here.
    try:
        yield ours
    finally:
        ours.close()
        process.join(10)
        process.kill()


def hear(process: Connection, timeout_s: float = START_TIMEOUT_S) -> Any:
    """What a `child` says next."""
    if not process.poll(timeout_s):
        raise TimeoutError(f"a process of the benchmark said nothing for {timeout_s:.0f} s")
    return process.recv()


class Experience(NamedTuple):
    """B blocks of R rows, of which L, behind the context, may start a transition."""

    obs: npt.NDArray[Any]  # [B, R, *obs_shape]
    action: npt.NDArray[np.int32]  # [B, R]
    reward: npt.NDArray[np.float32]  # [B, R]
    row_kind: npt.NDArray[np.uint8]  # [B, R]
    priority: npt.NDArray[np.float32]  # [B, L]


@dataclass(frozen=True, slots=True)
class Workload:
    """What is stored and sampled; the same for every system."""

    capacity: int = 1 << 20
    """Transitions."""
    batch_size: int = 512
    """Transitions in a batch."""
    blocks: int = 16
    """Blocks in an insert, B."""
    length: int = 64
    """Rows of a block that may start a transition, L."""
    n_step: int = 3
    """Rows after those."""
    obs_shape: tuple[int, ...] = (4,)
    obs_dtype: str = "<f4"
    frame_stack: int = 1
    """Newest observations that the network sees together, S."""
    actions: int = 2
    discount: float = 0.99
    priority_exponent: float = 0.6
    importance_sampling_exponent: float = 0.4
    in_flight: int = 4
    """Inserts not yet acknowledged to a writer, and batches a reader has asked for."""

    @property
    def context(self) -> int:
        """Rows of a block before those that may start a transition, S − 1."""
        return self.frame_stack - 1

    @property
    def rows(self) -> int:
        """Rows of a block, R."""
        return self.context + self.length + self.n_step

    @property
    def insert_size(self) -> int:
        """Transitions in an insert."""
        return self.blocks * self.length

    @property
    def stack_shape(self) -> tuple[int, ...]:
        """What the network sees of one moment."""
        return self.obs_shape if self.frame_stack == 1 else (self.frame_stack, *self.obs_shape)

    @property
    def obs_nbytes(self) -> int:
        """Bytes of one observation."""
        return math.prod(self.obs_shape) * np.dtype(self.obs_dtype).itemsize

    def random_obs(self, rng: np.random.Generator, shape: Sequence[int]) -> npt.NDArray[Any]:
        """Observations' numbers in an array of that shape, [..., *obs_shape]."""
        dtype = np.dtype(self.obs_dtype)
        if dtype.kind == "f":
            return rng.standard_normal(shape).astype(dtype)
        if len(self.obs_shape) == 2:
            return _images(rng, shape).astype(dtype)
        largest = 1 if dtype.kind == "b" else np.iinfo(dtype).max
        return rng.integers(0, largest, shape, dtype, endpoint=True)

    def experience(self, seed: int) -> Experience:
        """Random experience whose episodes last 200 steps on average, half of them truncated."""
        rng = np.random.default_rng(seed)
        shape = (self.blocks, self.rows)
        ends = rng.random(shape) < 1 / 200
        ends[:, 1:] &= ~ends[:, :-1]  # A last row is followed by a first one.
        row_kind = np.where(
            ends, rng.choice([RowKind.TERMINATED, RowKind.TRUNCATED], shape), 0
        ).astype(np.uint8)
        row_kind[:, 1:][ends[:, :-1]] = RowKind.FIRST
        priority = rng.exponential(size=(self.blocks, self.length)).astype(np.float32)
        # A last row starts no transition.
        priority[ends[:, self.context : self.context + self.length]] = 0.0
        return Experience(
            obs=self.random_obs(rng, (*shape, *self.obs_shape)),
            action=rng.integers(0, self.actions, shape, dtype=np.int32),
            reward=rng.standard_normal(shape).astype(np.float32),
            row_kind=row_kind,
            priority=priority,
        )

    def transitions(self, seed: int, count: int) -> dict[str, npt.NDArray[Any]]:
        """Finished transitions, stacks whole, for replays that store those."""
        rng = np.random.default_rng(seed)
        return {
            "obs": self.random_obs(rng, (count, *self.stack_shape)),
            "action": rng.integers(0, self.actions, count, dtype=np.int32),
            "n_step_return": rng.standard_normal(count).astype(np.float32),
            "discount": np.full(count, self.discount**self.n_step, np.float32),
            "next_obs": self.random_obs(rng, (count, *self.stack_shape)),
            "priorities": rng.exponential(size=count).astype(np.float32),
        }


def _images(rng: np.random.Generator, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Bands of one colour, with things that stay and things that jump before them.

    As many as make a batch of transitions 50 times smaller by delta+lz4, and one pixel in fifty
    differ between two frames. Random play of the six Atari presets gives 39 (BeamRider) to 199
    (Breakout) times, 80 in the median, and 0.4 to 16% of the pixels.
    """
    height, width = shape[-2:]

    def place(image: npt.NDArray[np.uint8], things: int) -> None:
        top, left = rng.integers(0, height - 6, things), rng.integers(0, width - 4, things)
        for y, x, colour in zip(top, left, rng.integers(0, 256, things), strict=True):
            image[y : y + 6, x : x + 4] = colour

    bands = rng.integers(0, 256, -(-height // 12), np.uint8)
    background = np.repeat(bands, 12)[:height, None].repeat(width, axis=1)
    place(background, 20)
    images = np.empty(shape, np.uint8)
    images[:] = background
    for image in images.reshape(-1, height, width):
        place(image, 3)
    return images


VECTORS = Workload()
"""CartPole's."""
FRAMES = Workload(
    # Whole stacks take 56 kB a transition: a larger table of the peers would not fit everywhere.
    capacity=1 << 16,
    obs_shape=(84, 84),
    obs_dtype="|u1",
    frame_stack=4,
    actions=6,
)
"""Atari's."""
WORKLOADS = {"vectors": VECTORS, "frames": FRAMES}


def _shared_counter() -> Any:
    return SPAWN.RawValue("Q", 0)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a writer's or a reader's process shares with the driver. Only that process counts and
    only the driver stops, so neither needs a lock."""

    seed: int
    _items: Any = field(default_factory=_shared_counter)
    _stopped: Any = field(default_factory=_shared_counter)

    @property
    def items(self) -> int:
        """Transitions whose insert was acknowledged, or batches received."""
        return int(self._items.value)

    def add(self, items: int) -> None:
        self._items.value += items

    @property
    def stopped(self) -> bool:
        return bool(self._stopped.value)

    def stop(self) -> None:
        self._stopped.value = 1


Endpoint = Any
"""How a worker reaches a server: whatever the system's `serving` gives; it travels to processes."""
Worker = Callable[[Endpoint, Workload, Progress], None]
"""Runs in its own process until `progress.stopped`."""


@dataclass(frozen=True, slots=True)
class ServedReplay:
    """A system under test. Its functions are at module level: they travel to other processes."""

    name: str
    serving: Callable[[Workload], AbstractContextManager[Endpoint]]
    """A server, in its own process if it has one, for as long as the context lasts."""
    write: Worker
    """Inserts without pause, `in_flight` inserts unacknowledged."""
    read: Worker
    """Takes batches without pause, `in_flight` asked for, and returns |δ| for all that it got."""
    confirm: Callable[[Endpoint, Workload, int], list[float]]
    """Seconds from each of so many inserts, one at a time, to its acknowledgement."""


@dataclass(frozen=True, slots=True)
class Rates:
    """One round of a system."""

    in_1: float
    """Transitions inserted per second by one writer."""
    in_2: float
    """... by two writers together."""
    out: float
    """Batches per second to one reader that updates the priorities of each."""
    both_in: float
    """Transitions inserted per second by two writers while one reader reads."""
    both_out: float
    """Batches per second to that reader."""
    confirm_p50_us: float
    """Median µs from an insert to its acknowledgement, one writer alone, one insert at a time."""
    confirm_p99_us: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure_round(system: ServedReplay, workload: Workload, window_s: float) -> Rates:
    """Starts the system, fills its table, measures one window of each kind, and stops it."""
    with system.serving(workload) as endpoint:

        def rates(writers: int, readers: int) -> tuple[float, float]:
            return _window(system, endpoint, workload, writers, readers, window_s)

        # A table that is full has touched all its memory, which would cost the first inserts most.
        _fill(system, endpoint, workload)
        in_1, _ = rates(1, 0)
        in_2, _ = rates(2, 0)
        p50_us, p99_us = _confirmation_us(system, endpoint, workload)
        _, out = rates(0, 1)
        both_in, both_out = rates(2, 1)
    return Rates(in_1, in_2, out, both_in, both_out, p50_us, p99_us)


def _confirmation_us(
    system: ServedReplay, endpoint: Endpoint, workload: Workload
) -> tuple[float, float]:
    """Median and 99th percentile."""
    with child(_confirm, system, endpoint, workload) as measuring:
        times_s = measuring.recv()
    p50, p99 = np.percentile(np.array(times_s) * 1e6, [50, 99])
    return float(p50), float(p99)


def _confirm(
    system: ServedReplay, endpoint: Endpoint, workload: Workload, result: Connection
) -> None:
    result.send(system.confirm(endpoint, workload, WARM_UP + CONFIRMED)[WARM_UP:])


def _window(
    system: ServedReplay,
    endpoint: Endpoint,
    workload: Workload,
    writers: int,
    readers: int,
    window_s: float,
) -> tuple[float, float]:
    """(transitions inserted, batches received) per second."""
    workers = [system.write] * writers + [system.read] * readers
    with _running(workers, endpoint, workload) as progress:
        time.sleep(SETTLE_S)
        before, start = [p.items for p in progress], time.perf_counter()
        time.sleep(window_s)
        after, end = [p.items for p in progress], time.perf_counter()
    per_s = [(b - a) / (end - start) for a, b in zip(before, after, strict=True)]
    return sum(per_s[:writers]), sum(per_s[writers:])


def _fill(system: ServedReplay, endpoint: Endpoint, workload: Workload) -> None:
    """Inserts as many transitions as the table holds, then reads a little, so that whatever is
    compiled or allocated at its first use has been."""
    for work, items in ((system.write, workload.capacity), (system.read, READ_BEFORE)):
        with _running([work], endpoint, workload) as (progress,):
            while progress.items < items:
                time.sleep(0.05)


@contextmanager
def _running(
    workers: Sequence[Worker], endpoint: Endpoint, workload: Workload
) -> Iterator[list[Progress]]:
    """Processes of all workers, each of which has moved at least one item."""
    progress = [Progress(seed) for seed in range(len(workers))]
    processes = [
        SPAWN.Process(target=work, args=(endpoint, workload, p), daemon=True)
        for work, p in zip(workers, progress, strict=True)
    ]
    for process in processes:
        process.start()
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while any(p.items == 0 for p in progress):
            if not all(process.is_alive() for process in processes):
                raise RuntimeError("a writer or a reader ended before it began; see its error")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no item moved within {START_TIMEOUT_S:.0f} s")
            time.sleep(0.005)
        yield progress
    finally:
        for p in progress:
            p.stop()
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.terminate()
                process.join()
