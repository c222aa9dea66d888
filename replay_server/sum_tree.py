"""A binary sum tree over non-negative leaf values, for sampling in proportion to them.

Node i has the children 2i and 2i+1; the root is node 1 and the leaves are the last half. A batch is
walked level by level rather than item by item: the inner loop has no branch, so that it compiles
to vector instructions and the cache misses of many items overlap (two to four times the speed of
walking item by item, and of a fan-out of eight, at 2²¹ leaves).

The upper levels have fewer nodes than a batch of N has items. A stratified sample begins at a level
of some 2N nodes instead, which are added up once from the left; an update makes the levels above it
anew as a whole.

Nodes are float32, which halves what a walk drags through the caches (a fifth of its time): a leaf's
probability is right to 10⁻⁶ of itself. The targets that walk the tree are float64, for in float32 a
small leaf among two million could be stepped over.

Parents are recomputed from their children, never adjusted by differences: sums do not drift.
"""

import numba
import numpy as np
import numpy.typing as npt

Float64Vector = npt.NDArray[np.float64]
FloatVector = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Int64Vector = npt.NDArray[np.int64]


_LARGEST = float(np.finfo(np.float32).max)


def tree_bytes(capacity: int) -> int:
    """Memory that a tree takes."""
    return (2 << (capacity - 1).bit_length()) * np.dtype(np.float32).itemsize


class SumTree:
    """Leaves 0 … capacity−1, all zero at first.

    `set` and `sample_stratified` cost O(log₂ capacity) a leaf; a tree takes 8 bytes a leaf, with
    the capacity rounded up to a power of two.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity} must be at least 1")
        self.capacity = capacity
        self._depth = (capacity - 1).bit_length()
        self._nodes = np.zeros(2 << self._depth, np.float32)

    @property
    def total(self) -> float:
        """Sum of all leaves."""
        return float(self._nodes[1])

    def set(self, indices: Int64Vector, values: FloatVector) -> None:
        """Leaf values, [N] each, as float32; where an index comes twice, the last value stays.

        Raises ValueError, and changes nothing, for an index outside the tree or a value that is
        negative or not finite (in float32).
        """
        if not _set(self._nodes, self._depth, self.capacity, indices, values):
            raise ValueError("an index is outside the tree, or a value is negative or not finite")

    def set_range(self, first: int, values: FloatVector) -> int:
        """As `set`, of the leaves first … first+K−1. Returns by how many more leaves are not zero
        now."""
        if not 0 <= first <= self.capacity - len(values):
            raise ValueError(f"leaves {first} … {first + len(values) - 1} are not all in the tree")
        change = _set_range(self._nodes, self._depth, first, values)
        if change is None:
            raise ValueError("a value is negative or not finite")
        return int(change)

    def sample_stratified(self, uniforms: Float64Vector) -> tuple[Int64Vector, Float64Vector]:
        """One leaf from each of N equal parts of the total (Schaul et al. 2016, appendix B.2.1).

        The leaf in which a cumulative mass falls is the smallest i with Σ_{j ≤ i} leaf_j > mass, up
        to rounding; a leaf of value zero is never returned.

        Args:
            uniforms: [N] in [0, 1), the place within each part.

        Returns:
            Leaves [N], and the probability leaf / total of each [N].

        Raises ValueError when the tree is empty.
        """
        if self._nodes[1] <= 0.0:
            raise ValueError("nothing to sample: all leaves are zero")
        return _sample_stratified(  # type: ignore[no-any-return]
            self._nodes, self._depth, uniforms
        )


@numba.njit(cache=True, nogil=True)
def _whole_level(n, depth):  # type: ignore[no-untyped-def]
    """The level, counted from the root, of 2n … 4n nodes, or the leaves: what lies above it is made
    anew, and it is added up, as a whole."""
    level = 0
    while level < depth and 1 << level < n:
        level += 1
    return min(level + 1, depth)


@numba.njit(cache=True, nogil=True)
def _set(nodes, depth, capacity, indices, values):  # type: ignore[no-untyped-def]
    n = indices.shape[0]
    for i in range(n):
        if not (0 <= indices[i] < capacity and 0.0 <= values[i] <= _LARGEST):
            return False
    at = np.empty(n, np.int64)
    for i in range(n):
        at[i] = indices[i] + (1 << depth)
        nodes[at[i]] = values[i]
    whole = _whole_level(n, depth)
    for _ in range(depth - whole):
        for i in range(n):
            node = at[i] >> 1
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]
            at[i] = node
    for node in range((1 << whole) - 1, 0, -1):
        nodes[node] = nodes[2 * node] + nodes[2 * node + 1]
    return True


@numba.njit(cache=True, nogil=True)
def _set_range(nodes, depth, first, values):  # type: ignore[no-untyped-def]
    n = values.shape[0]
    bad = 0
    for i in range(n):
        bad += not 0.0 <= values[i] <= _LARGEST
    if bad:
        return None
    first += 1 << depth
    last = first + n - 1
    change = 0
    for i in range(n):
        change -= nodes[first + i] > 0.0
        nodes[first + i] = values[i]
        change += nodes[first + i] > 0.0
    # Half as many nodes on each level.
    while first > 1 and n > 0:
        first >>= 1
        last >>= 1
        for node in range(first, last + 1):
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]
    return change


@numba.njit(cache=True, nogil=True)
def _sample_stratified(nodes, depth, uniforms):  # type: ignore[no-untyped-def]
    n = uniforms.shape[0]
    whole = _whole_level(n, depth)
    last = (2 << whole) - 1
    total = 0.0
    for i in range(1 << whole, last + 1):
        total += nodes[i]
    node = np.empty(n, np.uint32)
    rest = np.empty(n)
    # Targets ascend, and so do the nodes that they fall into.
    at, below, mass = 1 << whole, 0.0, np.float64(nodes[1 << whole])
    for i in range(n):
        target = (i + uniforms[i]) * (total / n)
        while at < last and target >= below + mass:
            below += mass
            at += 1
            mass = np.float64(nodes[at])
        node[i] = at
        rest[i] = target - below
    leaves = _descend(nodes, node, rest, depth - whole)
    probability = np.empty(n)
    for i in range(n):
        probability[i] = nodes[leaves[i]] / total
        leaves[i] -= 1 << depth
    return leaves, probability


@numba.njit(cache=True, nogil=True)
def _descend(nodes, node, rest, levels):  # type: ignore[no-untyped-def]
    """The leaves' nodes in which targets fall, so many levels below `node`; `rest` is by how much
    each target exceeds the mass to the left of its node. Both are used up."""
    n = node.shape[0]
    for _ in range(levels):
        for i in range(n):
            # Read into locals once: for all the compiler knows, a store to one array could change
            # the others, and reading again costs more than twice the time.
            child = node[i] * np.uint32(2)
            left = nodes[child]
            target = rest[i]
            goes_right = target >= left
            node[i] = child + np.uint32(goes_right)
            rest[i] = target - left if goes_right else target
    at = node.astype(np.int64)
    for i in range(n):
        # Rounding can lead a target at the edge of its part into an empty leaf (a few in 10⁷): it
        # belongs to the last leaf before it that has mass.
        if nodes[at[i]] <= 0.0:
            at[i] = _last_positive_before(nodes, at[i])
    return at


@numba.njit(cache=True, nogil=True)
def _last_positive_before(nodes, leaf):  # type: ignore[no-untyped-def]
    # A walk enters an empty part only to the right of one that has mass: the climb ends.
    node = leaf
    while node % 2 == 0 or nodes[node - 1] <= 0.0:
        node >>= 1
    node -= 1
    while 2 * node < nodes.shape[0]:
        node = 2 * node + (nodes[2 * node + 1] > 0.0)
    return node
