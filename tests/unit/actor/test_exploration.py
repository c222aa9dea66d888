"""The ε ladder against the paper's formula and numbers; ε-greedy by its frequencies."""

import numpy as np
import pytest

from actor.exploration import epsilon_greedy, epsilon_ladder

CHI_SQUARE_3_DEGREES = 16.27
"""The 99.9 % point of chi-square with 3 degrees of freedom."""


def test_a_ladder_of_eight_is_the_hand_worked_one() -> None:
    # M = 8, alpha = 7: the exponents are 1, 2, …, 8 exactly.
    ladder = epsilon_ladder(0, 8, 8, base=0.4, alpha=7.0)
    expected = [0.4, 0.16, 0.064, 0.0256, 0.01024, 0.004096, 0.0016384, 0.00065536]
    np.testing.assert_allclose(ladder, expected, rtol=1e-12)


def test_the_papers_360_actors_stand_on_its_formula() -> None:
    """Horgan et al. 2018, section 4.1: ε = 0.4, α = 7, N = 360; from 0.4 down to 0.4⁸."""
    ladder = epsilon_ladder(0, 360, 360, base=0.4, alpha=7.0)
    expected = [0.4 ** (1 + i / 359 * 7) for i in range(360)]
    np.testing.assert_allclose(ladder, expected, rtol=1e-12)
    assert ladder[0] == 0.4
    assert ladder[-1] == pytest.approx(6.5536e-4)


def test_a_single_environment_explores_at_the_base() -> None:
    assert epsilon_ladder(0, 1, 1, base=0.4, alpha=7.0).tolist() == [0.4]


@pytest.mark.parametrize("split", [[8], [3, 5], [1, 1, 1, 5], [4, 4]])
def test_actors_that_share_a_ladder_put_it_together(split: list[int]) -> None:
    whole = epsilon_ladder(0, 8, 8, base=0.3, alpha=5.0)
    parts = [
        epsilon_ladder(sum(split[:i]), count, 8, base=0.3, alpha=5.0)
        for i, count in enumerate(split)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(
    ("first", "count", "ladder_size", "exponents"),
    [
        (6, 4, 8, [7, 8, 8, 8]),  # Two on the ladder, two beyond.
        (20, 2, 8, [8, 8]),
        (0, 3, 1, [1, 1, 1]),  # A ladder of one rung.
        (5, 1, 1, [1]),
    ],
)
def test_environments_beyond_the_ladder_stand_on_its_last_rung(
    first: int, count: int, ladder_size: int, exponents: list[int]
) -> None:
    ladder = epsilon_ladder(first, count, ladder_size, base=0.4, alpha=7.0)
    np.testing.assert_allclose(ladder, [0.4**e for e in exponents], rtol=1e-12)


@pytest.mark.parametrize(("base", "alpha"), [(0.4, 0.0), (1.0, 7.0), (0.0, 7.0)])
def test_without_a_range_all_explore_alike(base: float, alpha: float) -> None:
    assert epsilon_ladder(0, 5, 5, base, alpha).tolist() == [base] * 5


def test_epsilon_zero_is_greedy_and_breaks_ties_by_the_first() -> None:
    q = np.array([[0.0, 3.0, 1.0], [5.0, 5.0, 2.0], [-3.0, -2.0, -1.0]], np.float32)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert epsilon_greedy(q, np.zeros(3), rng).tolist() == [1, 0, 2]


@pytest.mark.parametrize("epsilon", [0.1, 0.4, 1.0])
def test_actions_come_with_their_probabilities(epsilon: float) -> None:
    """P(greedy) = 1 − ε + ε/A, P(other) = ε/A each; chi-square over 40,000 draws."""
    q = np.tile(np.array([0.0, 9.0, 1.0, 2.0], np.float32), (4000, 1))
    rng = np.random.default_rng(5)
    draws = [epsilon_greedy(q, np.full(4000, epsilon), rng) for _ in range(10)]
    counts = np.bincount(np.concatenate(draws), minlength=4)
    probability = np.full(4, epsilon / 4)
    probability[1] += 1 - epsilon
    expected = 40_000 * probability
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_3_DEGREES


def test_each_environment_explores_at_its_own_epsilon() -> None:
    q = np.tile(np.array([1.0, 0.0], np.float32), (3, 1))
    rng = np.random.default_rng(5)
    epsilon = np.array([0.0, 1.0, 0.2])
    other = np.mean([epsilon_greedy(q, epsilon, rng) for _ in range(20_000)], axis=0)
    # ε/2 of the actions are the other one; the standard error is at most 0.0036.
    np.testing.assert_allclose(other, epsilon / 2, atol=0.015)
    assert other[0] == 0.0


def test_one_seed_gives_one_sequence_of_actions() -> None:
    q = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)

    def play() -> list[list[int]]:
        rng = np.random.default_rng(7)
        return [epsilon_greedy(q, np.full(6, 0.5), rng).tolist() for _ in range(20)]

    assert play() == play()
