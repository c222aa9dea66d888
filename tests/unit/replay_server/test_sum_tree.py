"""The sum tree against a list that is added up from the left.

Leaves that are small integers have exact sums, so that the tree must agree with the list on every
target. For any other leaves both must agree up to rounding, and a leaf of zero is never returned.
"""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replay_server.sum_tree import SumTree, _descend

FLOAT32 = 2.0**-24
"""Half the relative distance between neighbouring float32 numbers, which the tree holds."""
CAPACITIES = [1, 2, 3, 4, 5, 7, 8, 9, 31, 33]


def tree_of(leaves: list[float]) -> SumTree:
    tree = SumTree(len(leaves))
    tree.set(np.arange(len(leaves)), np.array(leaves, np.float64))
    return tree


def all_leaves(tree: SumTree) -> list[float]:
    leaves: list[float] = tree._nodes[1 << tree._depth :][: tree.capacity].tolist()
    return leaves


def sample(tree: SumTree, *targets: float) -> list[int]:
    """The plain search, from the root and in any order, that `sample_stratified` shortens."""
    root = np.ones(len(targets), np.uint32)
    nodes = _descend(tree._nodes, root, np.array(targets, np.float64), tree._depth)
    return [int(node) - (1 << tree._depth) for node in nodes]


def first_leaf_beyond(leaves: list[float], target: float) -> int:
    """The smallest i with leaf_0 + … + leaf_i > target."""
    cumulative = 0.0
    for i, leaf in enumerate(leaves):
        cumulative += leaf
        if cumulative > target:
            return i
    raise AssertionError(f"{target} is not below the total {cumulative}")


@st.composite
def batches_of_updates(draw: st.DrawFn) -> tuple[int, list[list[tuple[int, float]]]]:
    """A capacity, and batches of (index, value) in which indices often come twice."""
    capacity = draw(st.sampled_from(CAPACITIES))
    update = st.tuples(st.integers(0, capacity - 1), st.integers(0, 5).map(float))
    return capacity, draw(st.lists(st.lists(update, max_size=12), min_size=1, max_size=5))


@settings(max_examples=150)
@given(batches_of_updates())
def test_leaves_total_and_every_sample_equal_the_list(
    updates: tuple[int, list[list[tuple[int, float]]]],
) -> None:
    capacity, batches = updates
    tree, leaves = SumTree(capacity), [0.0] * capacity
    for batch in batches:
        for index, value in batch:
            leaves[index] = value  # Of two values for one index, the last one stays.
        tree.set(np.array([i for i, _ in batch], np.int64), np.array([v for _, v in batch]))

        assert all_leaves(tree) == leaves
        assert tree.total == sum(leaves)
        # Every boundary between two leaves, and every place halfway.
        targets = [half / 2 for half in range(int(2 * sum(leaves)))]
        if targets:
            assert sample(tree, *targets) == [first_leaf_beyond(leaves, t) for t in targets]


@settings(max_examples=150)
@given(st.sampled_from(CAPACITIES), st.data())
def test_a_range_of_leaves_is_set_as_each_of_them_would_be(
    capacity: int, data: st.DataObject
) -> None:
    tree, leaves = SumTree(capacity), [0.0] * capacity
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.integers(0, capacity))
        values = data.draw(st.lists(st.integers(0, 2).map(float), max_size=capacity - first))
        before = np.count_nonzero(leaves)
        leaves[first : first + len(values)] = values

        change = tree.set_range(first, np.array(values, np.float32))

        assert change == np.count_nonzero(leaves) - before
        assert all_leaves(tree) == leaves
        assert tree.total == sum(leaves)


@pytest.mark.parametrize("first", [-1, 6, 8])
def test_a_range_that_leaves_the_tree_is_refused(first: int) -> None:
    tree = tree_of([1.0] * 8)
    with pytest.raises(ValueError, match="not all in the tree"):
        tree.set_range(first, np.ones(3, np.float32))
    assert all_leaves(tree) == [1.0] * 8


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, 1e39])
def test_a_range_with_an_impossible_value_changes_nothing(bad: float) -> None:
    tree = tree_of([1.0] * 8)
    with pytest.raises(ValueError, match="negative or not finite"):
        tree.set_range(2, np.array([5.0, bad], np.float64))
    assert all_leaves(tree) == [1.0] * 8


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(st.just(0.0), st.floats(1e-12, 1e12), st.integers(1, 9).map(lambda k: k / 10)),
        min_size=1,
        max_size=40,
    ).filter(any)
)
@example([0.0, 0.3, 0.7, 0.0])
@example([0.5, 0.0, 0.1, 0.0, 0.8, 0.0, 0.3, 0.0])
def test_whatever_the_rounding_a_leaf_of_zero_is_never_returned(leaves: list[float]) -> None:
    tree = tree_of(leaves)
    total = tree.total
    edges = [*np.cumsum(leaves), total * (1 - np.finfo(float).eps), total]
    targets = [
        t for edge in edges for t in (edge, math.nextafter(edge, 0), math.nextafter(edge, total))
    ]
    targets = [float(t) for t in targets if 0 <= t < total]

    for target, leaf in zip(targets, sample(tree, *targets), strict=True):
        assert leaves[leaf] > 0.0
        before = math.fsum(leaves[:leaf])
        rounding = FLOAT32 * total * len(leaves)
        assert before - rounding <= target <= before + leaves[leaf] + rounding


@pytest.mark.parametrize("after", [[], [5.0, 0.0, 0.0, 0.0]], ids=["at the end", "in the middle"])
def test_a_target_that_rounding_leads_into_an_empty_leaf_belongs_to_the_leaf_before(
    after: list[float],
) -> None:
    target = math.nextafter(0.3 + 0.7, 0.0)  # 1 − 2⁻⁵³ …
    assert target - 0.3 == 0.7  # … is rounded up, so that leaf 2 seems to be passed.

    assert sample(tree_of([0.0, 0.3, 0.7, 0.0, *after]), target) == [2]


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("below", ["one rounding step", "a relative ε"])
def test_the_last_target_belongs_to_the_last_leaf_with_mass(capacity: int, below: str) -> None:
    for last in range(capacity):
        tree = tree_of([0.1 * (i + 1) if i <= last else 0.0 for i in range(capacity)])
        target = {
            "one rounding step": math.nextafter(tree.total, 0.0),
            "a relative ε": tree.total * (1 - np.finfo(float).eps),
        }[below]

        assert sample(tree, target) == [last]


@pytest.mark.parametrize(
    ("index", "value"),
    [(-1, 1.0), (3, 1.0), (1 << 40, 1.0), (-(1 << 40), 1.0)]
    + [(1, value) for value in (-1.0, -1e-300, 1e39, math.nan, math.inf, -math.inf)],
)
def test_an_impossible_update_is_refused_and_its_whole_batch_changes_nothing(
    index: int, value: float
) -> None:
    tree = tree_of([1.0, 2.0, 4.0])  # Leaf 3 of the power of two behind it is not one of ours.

    for place in range(3):
        indices, values = [0, 2], [99.0, 99.0]
        indices.insert(place, index)
        values.insert(place, value)
        with pytest.raises(ValueError, match="outside the tree, or a value is negative or not"):
            tree.set(np.array(indices), np.array(values))

    assert all_leaves(tree) == [1.0, 2.0, 4.0]
    assert tree.total == 7.0
    assert sample(tree, 0.0, 1.0, 3.0) == [0, 1, 2]


@pytest.mark.parametrize("batch", [1, 10, 100])
def test_after_many_updates_the_root_is_still_the_exact_sum_of_pairs(batch: int) -> None:
    rng = np.random.default_rng(1)
    tree = SumTree(1_000)
    for _ in range(1_000):
        values = 10.0 ** rng.uniform(-8, 8, size=batch) * (rng.random(batch) < 0.8)
        tree.set(rng.integers(1_000, size=batch), values)

    level = np.zeros(1_024, np.float32)
    level[:1_000] = all_leaves(tree)
    while len(level) > 1:
        level = level[0::2] + level[1::2]
    assert tree.total == level[0]

    tree.set(np.arange(1_000), np.zeros(1_000))
    assert tree.total == 0.0


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_nothing_can_be_sampled_from_an_empty_tree(capacity: int) -> None:
    tree = SumTree(capacity)
    for empty in (tree, tree_of([0.0] * capacity)):
        with pytest.raises(ValueError, match="all leaves are zero"):
            empty.sample_stratified(np.zeros(4))


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_tree_without_leaves_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        SumTree(capacity)


def test_a_stratified_sample_takes_one_leaf_from_each_equal_part() -> None:
    # total 8, parts of 2:    [0, 2)  [2, 4)  [4, 6)  [6, 8)
    # leaves                   0 1     1 1     1 3     3 3
    tree = tree_of([1.0, 4.0, 0.0, 3.0])
    for uniforms, expected in (
        ([0.0, 0.0, 0.0, 0.0], [0, 1, 1, 3]),  # targets 0, 2, 4, 6
        ([0.5, 0.0, 0.5, 0.0], [1, 1, 3, 3]),  # targets 1, 2, 5, 6
        ([0.25, 0.75, 0.25, 0.75], [0, 1, 1, 3]),  # targets 0.5, 3.5, 4.5, 7.5
    ):
        leaves, probability = tree.sample_stratified(np.array(uniforms))

        assert leaves.tolist() == expected
        mass = {0: 1.0, 1: 4.0, 3: 3.0}
        assert probability.tolist() == [mass[leaf] / 8.0 for leaf in expected]


@pytest.mark.parametrize("capacity", [1, 2, 7, 300, 1_000, 4_096])
@pytest.mark.parametrize("n", [1, 2, 3, 16, 100, 1_000])
def test_a_stratified_sample_is_that_of_its_targets_one_by_one(capacity: int, n: int) -> None:
    """Leaves are whole numbers, the total a multiple of n and of the places' denominator: nothing
    is rounded, at whichever level the walk begins."""
    rng = np.random.default_rng([capacity, n])
    leaves = (rng.integers(0, 4, capacity) * (rng.random(capacity) < 0.5)).astype(np.float64)
    leaves[rng.integers(capacity)] += 4 * n - leaves.sum() % (4 * n)
    tree, part = tree_of(leaves.tolist()), leaves.sum() / n
    for _ in range(10):
        uniforms = rng.integers(0, 4, n) / 4
        targets = (np.arange(n) + uniforms) * part
        expected = np.searchsorted(np.cumsum(leaves), targets, side="right")

        drawn, probability = tree.sample_stratified(uniforms)

        assert drawn.tolist() == expected.tolist()
        assert sample(tree, *targets) == expected.tolist()
        assert probability.tolist() == (leaves[expected] / leaves.sum()).tolist()


def test_an_empty_end_is_never_drawn_from() -> None:
    """... by a target that rounding pushes beyond the last mass, wherever the walk begins."""
    almost_one = math.nextafter(1.0, 0.0)
    for capacity in (64, 512):
        for filled in range(1, capacity, 7):
            values = np.random.default_rng(filled).exponential(size=capacity)
            values[filled:] = 0.0
            tree = tree_of(values.tolist())
            for n in (1, 10, 256):
                drawn, _ = tree.sample_stratified(np.full(n, almost_one))
                assert drawn[-1] == filled - 1


@settings(max_examples=150)
@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=20).filter(any),
    st.integers(1, 64),
    st.integers(0, 1 << 32),
)
def test_a_stratified_sample_holds_each_leaf_as_often_as_parts_overlap_it(
    leaves: list[float], n: int, seed: int
) -> None:
    tree = tree_of(leaves)
    sampled, probability = tree.sample_stratified(np.random.default_rng(seed).random(n))

    total = math.fsum(leaves)
    for leaf, p in zip(sampled, probability, strict=True):
        assert leaves[leaf] > 0.0
        assert p == pytest.approx(leaves[leaf] / total, rel=1e-6)
    # A stretch as long as c parts holds at least c − 2 whole ones and touches fewer than c + 2.
    for leaf, mass in enumerate(leaves):
        expected = n * mass / total
        assert abs(np.count_nonzero(sampled == leaf) - expected) < 2.0 + 1e-6


def test_a_uniform_next_to_one_stays_within_the_tree() -> None:
    tree = tree_of([0.1, 0.7, 0.2, 0.0, 0.0])
    almost_one = math.nextafter(1.0, 0.0)
    for n in range(1, 200):
        leaves, _ = tree.sample_stratified(np.full(n, almost_one))
        assert leaves[-1] == 2
