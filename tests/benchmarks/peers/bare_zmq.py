"""The bound for a replay that is served by messages: one ROUTER, numba, and no checks.

It receives what our server receives, but frames uncompressed, stores and samples it, and trusts
everyone: no header, no validation, no generations of keys (a priority may land on a row that was
overwritten), no counters, no rate limit. Everything is one fixed layout; lengths tell inserts from
requests. What a real server adds shows in its distance from this one; what compression saves, too.
Its batches hold whole stacks, as a learner that computes nothing itself would want them.

Layouts: an insert is the arrays of an `Experience`, a batch those of `Batch`, one after the other
with the widest elements first, so that all are aligned. Vectors travel in one frame, which is
copied, as is cheapest for little. Frames travel in a frame of their own, which is not. A request is
K keys (int64) and their K priorities (float32), or empty.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import zmq

from common.blocks import RowKind
from tests.benchmarks.served import Endpoint, Experience, Progress, ServedReplay, Workload, child

Array = npt.NDArray[Any]
_STOP = b"x"
_LARGE = 1 << 16
"""Bytes from which on a message is better not copied."""
# numba takes plain integers alone.
_FIRST = int(RowKind.FIRST)
_LAST = int(RowKind.LAST)
_TERMINATED = int(RowKind.TERMINATED)


class Batch(NamedTuple):
    """N transitions."""

    key: Array  # [N] int64
    obs: Array  # [N, S, obs_size]
    next_obs: Array  # [N, S, obs_size]
    action: Array  # [N] int32
    n_step_return: Array  # [N] float32
    discount: Array  # [N] float32
    probability: Array  # [N] float32


Spec = tuple[str, tuple[int, ...]]
"""dtype and shape of one array."""


def _obs_size(w: Workload) -> int:
    return w.obs_nbytes // np.dtype(w.obs_dtype).itemsize


def _batch_specs(w: Workload) -> list[Spec]:
    n = w.batch_size
    stacks = (w.obs_dtype, (n, w.frame_stack, _obs_size(w)))
    return [("<i8", (n,)), stacks, stacks, ("<i4", (n,)), *[("<f4", (n,))] * 3]


def _column_specs(w: Workload, blocks: int) -> list[Spec]:
    """Bytes last, for alignment: not in the order of `Experience`."""
    rows = (blocks, w.rows)
    return [
        (w.obs_dtype, (*rows, _obs_size(w))),
        ("<i4", rows),
        ("<f4", rows),
        ("<f4", (blocks, w.length)),
        ("|u1", rows),
    ]


def _insert_frames(w: Workload) -> list[list[Spec]]:
    """The columns of each frame of an insert."""
    obs, *others = _column_specs(w, w.blocks)
    return [[obs], others] if _nbytes([obs]) >= _LARGE else [[obs, *others]]


def _nbytes(specs: Sequence[Spec]) -> int:
    return sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for dtype, shape in specs)


def _frames(e: Experience, w: Workload) -> list[Any]:
    """An insert's frames."""
    others = (e.action.data, e.reward.data, e.priority.data, e.row_kind.data)
    if len(_insert_frames(w)) > 1:
        return [e.obs, b"".join(others)]
    return [b"".join((e.obs.data, *others))]


def _views(buffer: Any, specs: Sequence[Spec]) -> list[Array]:
    """The arrays that lie one after the other in `buffer`, without copying."""
    views, offset = [], 0
    for dtype, shape in specs:
        size = int(np.prod(shape))
        views.append(np.frombuffer(buffer, dtype, size, offset).reshape(shape))
        offset += views[-1].nbytes
    return views


class _Table:
    """A ring of blocks and a binary sum tree over p^α of their rows."""

    def __init__(self, workload: Workload) -> None:
        w = self._w = workload
        self._slots = w.capacity // w.length
        # ones: every page is touched before the first insert.
        self._columns = [np.ones(shape, dtype) for dtype, shape in _column_specs(w, self._slots)]
        self._columns[-1][:] = 0
        self._nodes = np.zeros(2 * w.capacity)
        self._rng = np.random.default_rng(0)
        self._next_slot = 0
        self._insert_frames = _insert_frames(w)
        specs = _batch_specs(w)
        # A reader has `in_flight` batches at most that it has not received yet.
        self._replies = [np.ones(_nbytes(specs), np.uint8) for _ in range(w.in_flight + 1)]
        self._batches = [Batch(*_views(reply, specs)) for reply in self._replies]
        self._sampled = 0

    def insert(self, frames: Sequence[Any]) -> None:
        """Overwrites the oldest B blocks; B divides the number of slots."""
        start, stop = self._next_slot, self._next_slot + self._w.blocks
        arrays = [
            array
            for frame, specs in zip(frames, self._insert_frames, strict=True)
            for array in _views(frame, specs)
        ]
        for column, array in zip(self._columns, arrays, strict=True):
            column[start:stop] = array
        _set_range(
            self._nodes, start * self._w.length, arrays[3].ravel(), self._w.priority_exponent
        )
        self._next_slot = stop % self._slots

    def update(self, payload: Any) -> None:
        """New priorities for the rows named by their keys; of duplicates, the last stays."""
        count = len(payload) // 12
        key = np.frombuffer(payload, np.int64, count)
        priority = np.frombuffer(payload, np.float32, count, 8 * count)
        _set(self._nodes, key, priority, self._w.priority_exponent)

    def sample(self) -> memoryview:
        """A batch in proportion to p^α, as bytes that stay until the reader has taken them."""
        turn = self._sampled % len(self._replies)
        self._sampled += 1
        obs, action, reward, _, row_kind = self._columns
        _sample(
            self._nodes,
            self._rng.random(self._w.batch_size),
            (obs, action, reward, row_kind),
            (self._w.length, self._w.n_step, self._w.discount),
            self._batches[turn],
        )
        return self._replies[turn].data


@numba.njit(cache=True)
def _set_range(nodes, first, priority, exponent):  # type: ignore[no-untyped-def]
    """Consecutive leaves: each level above them is a range, too."""
    low = first + nodes.size // 2
    high = low + priority.size - 1
    for i in range(priority.size):
        nodes[low + i] = priority[i] ** np.float32(exponent)
    while low > 1:
        low >>= 1
        high >>= 1
        for node in range(low, high + 1):
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]


@numba.njit(cache=True)
def _set(nodes, leaf, priority, exponent):  # type: ignore[no-untyped-def]
    """Any leaves, the whole batch level by level: the walks' cache misses overlap."""
    at = leaf + nodes.size // 2
    for i in range(at.size):
        nodes[at[i]] = priority[i] ** np.float32(exponent)
    for _ in range(_depth(nodes)):
        for i in range(at.size):
            at[i] >>= 1
            nodes[at[i]] = nodes[2 * at[i]] + nodes[2 * at[i] + 1]


@numba.njit(cache=True)
def _sample(nodes, uniform, columns, constants, batch):  # type: ignore[no-untyped-def]
    obs, action, reward, row_kind = columns
    length, n_step, gamma = constants
    stack = batch.obs.shape[1]
    at = np.ones(uniform.size, np.int64)
    rest = uniform * nodes[1]
    for _ in range(_depth(nodes)):
        for i in range(at.size):
            left = nodes[2 * at[i]]
            goes_right = rest[i] >= left
            at[i] = 2 * at[i] + goes_right
            rest[i] = rest[i] - left if goes_right else rest[i]
    for i in range(at.size):
        leaf = at[i] - nodes.size // 2
        slot, start = leaf // length, stack - 1 + leaf % length
        n_step_return, product, end = 0.0, 1.0, start
        while end < start + n_step:
            n_step_return += product * reward[slot, end]
            product *= gamma
            end += 1
            if row_kind[slot, end] & _LAST:
                break
        batch.key[i] = leaf
        first = start
        while first > start - stack + 1 and row_kind[slot, first] & _FIRST == 0:
            first -= 1
        for s in range(stack):
            row = obs[slot, max(first, start - stack + 1 + s)]
            next_row = obs[slot, max(first, end - stack + 1 + s)]
            for j in range(row.size):
                batch.obs[i, s, j] = row[j]
            for j in range(row.size):
                batch.next_obs[i, s, j] = next_row[j]
        batch.action[i] = action[slot, start]
        batch.n_step_return[i] = n_step_return
        batch.discount[i] = 0.0 if row_kind[slot, end] & _TERMINATED else product
        batch.probability[i] = nodes[at[i]] / nodes[1]


@numba.njit(cache=True)
def _depth(nodes):  # type: ignore[no-untyped-def]
    """Levels below the root of a tree in an array of 2^(depth+1)."""
    depth, size = 0, nodes.size // 2
    while size > 1:
        size >>= 1
        depth += 1
    return depth


def _serve(workload: Workload, ready: Connection) -> None:
    """The server's process: one thread, one socket, until `_STOP` comes."""
    table = _Table(workload)
    insert_bytes = [_nbytes(specs) for specs in _insert_frames(workload)]
    large_inserts, large_batches = len(insert_bytes) > 1, _has_large_batches(workload)
    # Compiles.
    table.insert([bytes(frame) for frame in _frames(workload.experience(seed=0), workload)])
    table.update(np.int64(0).tobytes() + np.float32(1).tobytes())
    table.sample()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        ready.send(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")
        while True:
            if large_inserts:
                identity, *frames = (f.buffer for f in socket.recv_multipart(copy=False))
            else:
                identity, *frames = socket.recv_multipart()
            if len(frames[0]) == insert_bytes[0]:
                table.insert(frames)
                socket.send_multipart((identity, b""))
            elif frames[0] == _STOP:
                return
            else:
                if len(frames[0]):
                    table.update(frames[0])
                socket.send(identity, zmq.SNDMORE)
                socket.send(table.sample(), copy=not large_batches)


def _has_large_batches(w: Workload) -> bool:
    return _nbytes(_batch_specs(w)) >= 16 * _LARGE


def _sender(socket: "zmq.Socket[bytes]", w: Workload, seed: int) -> Callable[[], None]:
    """Sends an insert."""
    experience = w.experience(seed)
    if len(_insert_frames(w)) == 1:
        return lambda: socket.send(_frames(experience, w)[0])
    return lambda: socket.send_multipart(_frames(experience, w), copy=False)


@contextmanager
def _serving(workload: Workload) -> Iterator[Endpoint]:
    with child(_serve, workload) as server:
        endpoint = server.recv()
        try:
            yield endpoint
        finally:
            with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
                socket.connect(endpoint)
                socket.send(_STOP)


def _write(endpoint: Endpoint, workload: Workload, progress: Progress) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint)
        send = _sender(socket, workload, progress.seed)
        unacknowledged = 0
        while not progress.stopped:
            if unacknowledged < workload.in_flight:
                send()
                unacknowledged += 1
            else:
                socket.recv()
                unacknowledged -= 1
                progress.add(workload.insert_size)


def _confirm(endpoint: Endpoint, workload: Workload, inserts: int) -> list[float]:
    times_s = []
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint)
        send = _sender(socket, workload, seed=0)
        for _ in range(inserts):
            start_s = time.perf_counter()
            send()
            socket.recv()
            times_s.append(time.perf_counter() - start_s)
    return times_s


def _read(endpoint: Endpoint, workload: Workload, progress: Progress) -> None:
    specs = _batch_specs(workload)
    rng = np.random.default_rng(progress.seed)
    priority = rng.exponential(size=workload.batch_size).astype(np.float32)
    copy = not _has_large_batches(workload)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint)
        for _ in range(workload.in_flight):
            socket.send(b"")
        while not progress.stopped:
            received = socket.recv() if copy else socket.recv(copy=False).buffer
            batch = Batch(*_views(received, specs))
            progress.add(1)
            socket.send(b"".join((batch.key.data, priority.data)))


BARE_ZMQ = ServedReplay("bare ZeroMQ", _serving, _write, _read, _confirm)
