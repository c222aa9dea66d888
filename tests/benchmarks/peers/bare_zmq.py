"""The bound for a replay that is served by messages: one ROUTER, numba, and no checks.

It receives the bytes that our server receives, stores and samples them, and trusts everyone: no
header, no validation, no generations of keys (a priority may land on a row that was overwritten),
no counters, no rate limit. Blocks are one fixed layout in one frame, requests another; their
lengths tell them apart. What a real server adds shows in its distance from this one.

Layouts: an insert is the arrays of an `Experience`, a batch those of `Batch`, one after the other
with the widest elements first, so that all are aligned. A request is K keys (int64) and their K
priorities (float32), or empty.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import zmq

from common.blocks import RowKind
from tests.benchmarks.served import SPAWN, Experience, Progress, ServedReplay, Workload

Array = npt.NDArray[Any]
_STOP = b"x"
# numba takes plain integers alone.
_LAST = int(RowKind.LAST)
_TERMINATED = int(RowKind.TERMINATED)


class Batch(NamedTuple):
    """N transitions."""

    key: Array  # [N] int64
    obs: Array  # [N, obs_size] float32
    next_obs: Array  # [N, obs_size] float32
    action: Array  # [N] int32
    n_step_return: Array  # [N] float32
    discount: Array  # [N] float32
    probability: Array  # [N] float32


Spec = tuple[str, tuple[int, ...]]
"""dtype and shape of one array."""


def _batch_specs(w: Workload) -> list[Spec]:
    n = w.batch_size
    return [
        ("<i8", (n,)),
        ("<f4", (n, w.obs_size)),
        ("<f4", (n, w.obs_size)),
        ("<i4", (n,)),
        *[("<f4", (n,))] * 3,
    ]


def _insert_specs(w: Workload) -> list[Spec]:
    b, r = w.blocks, w.rows
    # Bytes last, for alignment: not in the order of `Experience`.
    return [
        ("<f4", (b, r, w.obs_size)),
        ("<i4", (b, r)),
        ("<f4", (b, r)),
        ("<f4", (b, w.length)),
        ("|u1", (b, r)),
    ]


def _nbytes(specs: Sequence[Spec]) -> int:
    return sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for dtype, shape in specs)


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
        self._columns = [
            np.ones((self._slots, *shape[1:]), dtype) for dtype, shape in _insert_specs(w)
        ]
        self._nodes = np.zeros(2 * w.capacity)
        self._rng = np.random.default_rng(0)
        self._next_slot = 0
        self._insert_specs = _insert_specs(w)
        self._reply = np.ones(_nbytes(_batch_specs(w)), np.uint8)
        self._batch = Batch(*_views(self._reply, _batch_specs(w)))

    def insert(self, payload: bytes) -> None:
        """Overwrites the oldest B blocks; B divides the number of slots."""
        start, stop = self._next_slot, self._next_slot + self._w.blocks
        arrays = _views(payload, self._insert_specs)
        for column, array in zip(self._columns, arrays, strict=True):
            column[start:stop] = array
        _set_range(
            self._nodes, start * self._w.length, arrays[3].ravel(), self._w.priority_exponent
        )
        self._next_slot = stop % self._slots

    def update(self, payload: bytes) -> None:
        """New priorities for the rows named by their keys; of duplicates, the last stays."""
        count = len(payload) // 12
        key = np.frombuffer(payload, np.int64, count)
        priority = np.frombuffer(payload, np.float32, count, 8 * count)
        _set(self._nodes, key, priority, self._w.priority_exponent)

    def sample(self) -> memoryview:
        """A batch in proportion to p^α, as bytes that the next call overwrites."""
        obs, action, reward, _, row_kind = self._columns
        _sample(
            self._nodes,
            self._rng.random(self._w.batch_size),
            (obs, action, reward, row_kind),
            (self._w.length, self._w.n_step, self._w.discount),
            self._batch,
        )
        return self._reply.data


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
        slot, row = leaf // length, leaf % length
        n_step_return, product, end = 0.0, 1.0, row
        while end < row + n_step:
            n_step_return += product * reward[slot, end]
            product *= gamma
            end += 1
            if row_kind[slot, end] & _LAST:
                break
        batch.key[i] = leaf
        for j in range(obs.shape[2]):
            batch.obs[i, j] = obs[slot, row, j]
            batch.next_obs[i, j] = obs[slot, end, j]
        batch.action[i] = action[slot, row]
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
    insert_bytes = _nbytes(_insert_specs(workload))
    # Compiles everything before the first peer comes.
    table.insert(_payload(workload.experience(seed=0)))
    table.update(bytes(12))
    table.sample()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        ready.send(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")
        while True:
            identity, payload = socket.recv_multipart()
            if len(payload) == insert_bytes:
                table.insert(payload)
                socket.send_multipart((identity, b""))
            elif payload == _STOP:
                return
            else:
                if payload:
                    table.update(payload)
                socket.send_multipart((identity, table.sample()))


@contextmanager
def _serving(workload: Workload) -> Iterator[str]:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(workload, theirs), daemon=True)
    process.start()
    theirs.close()  # So that a server that dies is an EOFError here.
    endpoint = ours.recv()
    try:
        yield endpoint
    finally:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.connect(endpoint)
            socket.send(_STOP)
        process.join(10)


def _payload(e: Experience) -> bytes:
    return b"".join(a.data for a in (e.obs, e.action, e.reward, e.priority, e.row_kind))


def _write(endpoint: str, workload: Workload, progress: Progress) -> None:
    experience = workload.experience(progress.seed)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint)
        unacknowledged = 0
        while not progress.stopped:
            if unacknowledged < workload.in_flight:
                socket.send(_payload(experience))
                unacknowledged += 1
            else:
                socket.recv()
                unacknowledged -= 1
                progress.add(workload.insert_size)


def _read(endpoint: str, workload: Workload, progress: Progress) -> None:
    specs = _batch_specs(workload)
    rng = np.random.default_rng(progress.seed)
    priority = rng.exponential(size=workload.batch_size).astype(np.float32)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint)
        for _ in range(workload.in_flight):
            socket.send(b"")
        while not progress.stopped:
            batch = Batch(*_views(socket.recv(), specs))
            progress.add(1)
            socket.send(b"".join((batch.key.data, priority.data)))


BARE_ZMQ = ServedReplay("bare ZeroMQ", _serving, _write, _read)
