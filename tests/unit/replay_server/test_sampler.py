"""The samplers against a dictionary of what can be drawn, and their frequencies by chi-square."""

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_server.sampler import PrioritizedSampler, Sampler, UniformSampler

EPSILON = 1e-6
CAPACITY = 12
CHI_SQUARE_9_DF = 27.88
"""Exceeded by one in a thousand samples with 10 cells (9 degrees of freedom)."""


def prioritized(exponent: float, seed: int = 0) -> PrioritizedSampler:
    return PrioritizedSampler(CAPACITY, exponent, EPSILON, np.random.default_rng(seed))


def uniform(seed: int = 0) -> UniformSampler:
    return UniformSampler(CAPACITY, np.random.default_rng(seed))


MakeSampler = Callable[[int], Sampler]
either_sampler = pytest.mark.parametrize(
    "make", [lambda seed: prioritized(0.6, seed), uniform], ids=["prioritized", "uniform"]
)


def write(sampler: Sampler, priorities: Mapping[int, float | None]) -> None:
    """Write items; those with the priority None cannot be drawn and hold a trap instead."""
    run: list[int] = []
    for item in sorted(priorities):
        run.append(item)
        if item + 1 in priorities:
            continue
        values = [priorities[i] for i in run]
        sampler.write(
            run[0],
            np.array([np.nan if p is None else p for p in values], np.float32),
            np.array([p is not None for p in values], np.bool_),
        )
        run.clear()


def update(sampler: Sampler, updates: Iterable[tuple[int, float]]) -> None:
    items, priorities = zip(*updates, strict=True)
    sampler.update(np.array(items, np.int64), np.array(priorities, np.float32))


def chi_square(drawn: npt.NDArray[np.int64], probability: Mapping[int, float]) -> float:
    """Σ (observed − expected)² / expected over the items of `probability`."""
    assert set(drawn.tolist()) <= set(probability)
    return sum(
        (np.count_nonzero(drawn == item) - len(drawn) * p) ** 2 / (len(drawn) * p)
        for item, p in probability.items()
    )


# --------------------------------------------------------------------------------- frequencies

PRIORITIES = {1: 0.1, 2: 0.2, 3: 0.5, 4: 1.0, 5: 1.5, 6: 2.0, 7: 3.0, 9: 5.0, 10: 8.0, 11: 10.0}


def power_law(exponent: float) -> dict[int, float]:
    """P(i) = p_i^α / Σ_k p_k^α."""
    masses = {item: (p + EPSILON) ** exponent for item, p in PRIORITIES.items()}
    return {item: mass / math.fsum(masses.values()) for item, mass in masses.items()}


def drawn_one_by_one(sampler: Sampler, draws: int) -> npt.NDArray[np.int64]:
    """A sample of one has a single stratum: its draws are independent, as chi-square asks."""
    return np.concatenate([sampler.sample(1)[0] for _ in range(draws)])


@pytest.mark.parametrize("exponent", [0.0, 0.4, 0.6, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_priorities_to_the_power_of_alpha_are_how_often_items_are_drawn(
    exponent: float, seed: int
) -> None:
    sampler = prioritized(exponent, seed)
    write(sampler, {0: 99.0, **PRIORITIES, 8: None})
    write(sampler, {0: None})

    drawn = drawn_one_by_one(sampler, 20_000)

    assert chi_square(drawn, power_law(exponent)) < CHI_SQUARE_9_DF
    # The same draws do not fit another exponent: the test can fail.
    assert chi_square(drawn, power_law(exponent + 0.1)) > CHI_SQUARE_9_DF


def test_stratified_batches_are_drawn_in_the_same_proportion() -> None:
    sampler = prioritized(0.6)
    write(sampler, PRIORITIES)
    drawn = np.concatenate([sampler.sample(512)[0] for _ in range(40)])

    assert chi_square(drawn, power_law(0.6)) < CHI_SQUARE_9_DF


def test_updated_priorities_change_how_often_items_are_drawn() -> None:
    sampler = prioritized(0.6)
    write(sampler, dict.fromkeys(PRIORITIES, 1.0))
    update(sampler, PRIORITIES.items())

    assert chi_square(drawn_one_by_one(sampler, 20_000), power_law(0.6)) < CHI_SQUARE_9_DF


@pytest.mark.parametrize("seed", [0, 1])
def test_the_uniform_sampler_draws_every_item_as_often_whatever_its_priority(seed: int) -> None:
    sampler = uniform(seed)
    write(sampler, {0: 1.0, **PRIORITIES, 8: None})
    update(sampler, [(1, 1e6)])
    write(sampler, {0: None})

    drawn, probability = sampler.sample(20_000)

    assert chi_square(drawn, dict.fromkeys(PRIORITIES, 0.1)) < CHI_SQUARE_9_DF
    assert (probability == 0.1).all()


@either_sampler
def test_the_same_seed_draws_the_same_items_and_another_seed_others(make: MakeSampler) -> None:
    def draw(seed: int) -> list[int]:
        sampler = make(seed)
        write(sampler, PRIORITIES)
        return [int(item) for item in sampler.sample(64)[0]]

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


def test_a_transition_without_error_can_still_be_drawn() -> None:
    sampler = prioritized(0.6)
    write(sampler, {5: 0.0})

    items, probability = sampler.sample(3)

    assert sampler.size == 1
    assert items.tolist() == [5, 5, 5]
    assert probability.tolist() == [1.0, 1.0, 1.0]


def test_the_largest_priorities_still_have_a_finite_sum() -> None:
    sampler = prioritized(1.0)
    largest = float(np.finfo(np.float32).max)
    write(sampler, dict.fromkeys(range(CAPACITY), largest))
    update(sampler, [(5, largest)])

    _, probability = sampler.sample(CAPACITY)

    assert math.isfinite(sampler.mass)
    assert probability.tolist() == pytest.approx([1 / CAPACITY] * CAPACITY)


# --------------------------------------------------------------------------- against a dictionary

Write = dict[int, float | None]
Update = list[tuple[int, float]]
# Within this range the least likely of 12 items has more than 2 of 256 strata (see below).
priorities = st.integers(1, 16).map(lambda quarters: quarters / 4)
writes = st.dictionaries(
    st.integers(0, CAPACITY - 1), st.one_of(st.none(), priorities), min_size=1, max_size=CAPACITY
)
updates = st.lists(st.tuples(st.integers(0, CAPACITY - 1), priorities), min_size=1, max_size=10)


def replay(sampler: Sampler, operations: list[Write | Update]) -> dict[int, float]:
    """Do the same to the sampler and to a dictionary of the priorities of what can be drawn."""
    drawable: dict[int, float] = {}
    for operation in operations:
        if isinstance(operation, dict):
            write(sampler, operation)
            for item, priority in operation.items():
                drawable.pop(item, None)
                if priority is not None:
                    drawable[item] = priority
        elif live := [(item, priority) for item, priority in operation if item in drawable]:
            update(sampler, live)
            drawable.update(live)  # Of two priorities for one item, the last one counts.
        assert sampler.size == len(drawable)
    return drawable


@settings(max_examples=150)
@given(st.lists(st.one_of(writes, updates), max_size=12))
def test_prioritized_items_and_probabilities_equal_the_dictionary(
    operations: list[Write | Update],
) -> None:
    sampler = prioritized(0.6)
    drawable = replay(sampler, operations)
    if not drawable:
        with pytest.raises(ValueError, match="nothing to sample"):
            sampler.sample(1)
        return

    items, probability = sampler.sample(256)

    # Every item fills at least one of the 256 strata: 0.25^0.6 / (0.25^0.6 + 11 × 4^0.6) > 2/256.
    assert set(items.tolist()) == set(drawable)
    total = math.fsum((p + EPSILON) ** 0.6 for p in drawable.values())
    for item, p in zip(items.tolist(), probability, strict=True):
        assert p == pytest.approx((drawable[item] + EPSILON) ** 0.6 / total, rel=1e-6)


@settings(max_examples=150)
@given(st.lists(st.one_of(writes, updates), max_size=12))
def test_uniform_items_and_probabilities_equal_the_set_of_what_was_written(
    operations: list[Write | Update],
) -> None:
    sampler = uniform()
    drawable = replay(sampler, operations)
    if not drawable:
        return

    items, probability = sampler.sample(1_000)

    # 1000 draws miss one of 12 items with probability 12 · (11/12)^1000 < 10⁻³⁶.
    assert set(items.tolist()) == set(drawable)
    assert (probability == 1 / len(drawable)).all()


@either_sampler
def test_items_overwritten_in_a_ring_keep_the_size_exact(make: MakeSampler) -> None:
    sampler = make(0)
    rng = np.random.default_rng(0)
    drawable: dict[int, bool] = {}
    for turn in range(200):
        # 12 items: the ring's end falls within a write, and before one.
        first = 4 * turn % CAPACITY if turn % 2 else 7
        starts = rng.random(4) < 0.8
        sampler.write(first, np.ones(4, np.float32), starts)
        drawable.update(zip(range(first, first + 4), starts.tolist(), strict=True))

        assert sampler.size == sum(drawable.values())
        assert all(drawable[item] for item in sampler.sample(20)[0].tolist())
