"""One priority tree, in a process of its own, timed a round at a time.

    python -m tests.benchmarks.tree_rounds zapex

measures a round of iterations for each line on stdin. `tests.benchmarks.sum_tree` runs one such
process for each tree, in the Python where it is installed, and takes rounds from them in turn.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tests.benchmarks.contestants import serve_rounds
from tests.benchmarks.peers import unavailable

CAPACITY = 1 << 21
"""Leaves."""
BATCH = 512
"""Leaves sampled, then updated, in an iteration."""
ITERATIONS = 100
"""Timed in a round."""
WARM_UP = 20
"""Before them, not timed: other processes had the caches."""

Int64Vector = npt.NDArray[np.int64]
Float64Vector = npt.NDArray[np.float64]


class Tree(Protocol):
    """What is timed."""

    def set(self, indices: Int64Vector, values: Float64Vector) -> None: ...

    def targets(self, uniforms: Float64Vector) -> Float64Vector:
        """What `sample` takes, not timed: one place in each of N equal parts of the total."""

    def sample(self, targets: Float64Vector) -> Int64Vector:
        """The leaves there."""


class _Zapex:
    """Finds the places itself, and tells the leaves' probabilities, too."""

    def __init__(self) -> None:
        from replay_server.sum_tree import SumTree

        self._tree = SumTree(CAPACITY)

    def set(self, indices: Int64Vector, values: Float64Vector) -> None:
        self._tree.set(indices, values)

    def targets(self, uniforms: Float64Vector) -> Float64Vector:
        return uniforms

    def sample(self, targets: Float64Vector) -> Int64Vector:
        leaves, _ = self._tree.sample_stratified(targets)
        return leaves


def _places(uniforms: Float64Vector, total: float) -> Float64Vector:
    places: Float64Vector = (np.arange(len(uniforms)) + uniforms) * (total / len(uniforms))
    return places


class _Tianshou:
    """tianshou.data.SegmentTree, which overwrites the targets."""

    def __init__(self) -> None:
        from tianshou.data import SegmentTree

        self._tree: Any = SegmentTree(CAPACITY)

    def set(self, indices: Int64Vector, values: Float64Vector) -> None:
        self._tree[indices] = values

    def sample(self, targets: Float64Vector) -> Int64Vector:
        leaves: Int64Vector = self._tree.get_prefix_sum_idx(targets)
        return leaves

    def targets(self, uniforms: Float64Vector) -> Float64Vector:
        return _places(uniforms, float(self._tree.reduce()))


class _Cpprb:
    """cpprb keeps its trees to itself: a buffer with one column, which draws its own targets and
    also gives importance weights, is the nearest thing to one."""

    def __init__(self) -> None:
        from cpprb import PrioritizedReplayBuffer

        self._buffer: Any = PrioritizedReplayBuffer(
            CAPACITY, {"row": {"dtype": np.uint8}}, alpha=1.0
        )
        rows = np.zeros(CAPACITY, np.uint8)
        self._buffer.add(row=rows, priorities=np.ones(CAPACITY, np.float32))

    def set(self, indices: Int64Vector, values: Float64Vector) -> None:
        self._buffer.update_priorities(indices, values)

    def sample(self, targets: Float64Vector) -> Int64Vector:
        indexes: Int64Vector = self._buffer.sample(len(targets), beta=0.4)["indexes"]
        return indexes

    def targets(self, uniforms: Float64Vector) -> Float64Vector:
        return uniforms


class _TorchRL:
    """torchrl's C++ tree. Its walk takes the first leaf whose running sum exceeds the target."""

    def __init__(self) -> None:
        from torchrl._torchrl import SumSegmentTreeFp64

        self._tree: Any = SumSegmentTreeFp64(CAPACITY)

    def set(self, indices: Int64Vector, values: Float64Vector) -> None:
        self._tree[indices] = values

    def sample(self, targets: Float64Vector) -> Int64Vector:
        leaves: Int64Vector = self._tree.scan_lower_bound(targets)
        return leaves

    def targets(self, uniforms: Float64Vector) -> Float64Vector:
        return _places(uniforms, float(self._tree.query(0, CAPACITY)))


TREES: dict[str, Callable[[], Tree]] = {
    "zapex": _Zapex,
    "tianshou": _Tianshou,
    "cpprb": _Cpprb,
    "torchrl": _TorchRL,
}


def time_round(tree: Tree, rng: np.random.Generator) -> dict[str, list[float]]:
    """µs of each iteration's sample, update, and both together."""
    times: dict[str, list[float]] = {"sample": [], "update": [], "both": []}
    for iteration in range(WARM_UP + ITERATIONS):
        targets = tree.targets(rng.random(BATCH))
        values = rng.exponential(size=BATCH)
        start = time.perf_counter_ns()
        leaves = tree.sample(targets)
        between = time.perf_counter_ns()
        tree.set(leaves, values)
        end = time.perf_counter_ns()
        if iteration >= WARM_UP:
            times["sample"].append((between - start) / 1e3)
            times["update"].append((end - between) / 1e3)
            times["both"].append((end - start) / 1e3)
    return times


def main() -> None:
    rng = np.random.default_rng(0)
    try:
        tree = TREES[sys.argv[1]]()
    except ImportError as error:
        unavailable(error, sys.argv[1])
    tree.set(np.arange(CAPACITY), rng.exponential(size=CAPACITY))
    time_round(tree, rng)  # Compiles.
    serve_rounds(lambda: time_round(tree, rng))


if __name__ == "__main__":
    main()
