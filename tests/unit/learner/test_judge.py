"""When an evaluation counts as solved: three standard errors of its mean above the target."""

from collections.abc import Sequence

import numpy as np
import pytest

from learner.judge import judge

# Mean 100, standard deviation 10, so a standard error of 10/√4 = 5: beyond doubt up to 85.
FOUR = (90.0, 110.0, 90.0, 110.0)
# Mean −2, standard deviation √(8·9/9) = √8, standard error √8/√9 = 0.943: up to −4.828.
NINE = (-2.0, *(1.0, -5.0) * 4)


@pytest.mark.parametrize(
    ("returns", "target", "confirm_episodes", "reached", "beyond_doubt"),
    [
        (FOUR, 85.0, 4, True, True),
        (FOUR, 85.5, 4, True, False),
        (FOUR, 100.0, 4, True, False),
        (FOUR, 100.5, 4, False, False),
        (FOUR, -1e9, 4, True, True),
        # Too few episodes: not even reached, whatever their mean.
        (FOUR, 0.0, 5, False, False),
        ((1e9,), 0.0, 2, False, False),
        # More episodes than were asked for.
        (FOUR, 85.0, 3, True, True),
        # Nothing to confirm: taken at its word.
        (FOUR, 100.0, 0, True, True),
        (FOUR, 100.5, 0, False, False),
        ((7.0,), 7.0, 0, True, True),
        # The same return every time leaves no doubt.
        ((500.0,) * 100, 500.0, 100, True, True),
        ((7.0,), 7.0, 1, True, True),
        # Returns and targets may be negative; a standard error is not.
        (NINE, -4.83, 9, True, True),
        (NINE, -4.82, 9, True, False),
        (NINE, -2.0, 9, True, False),
        (NINE, -1.9, 9, False, False),
        # No target: nothing is ever reached.
        (FOUR, None, 0, False, False),
        (FOUR, None, 4, False, False),
    ],
)
def test_a_run_is_solved_when_its_score_is_beyond_doubt(
    returns: Sequence[float],
    target: float | None,
    confirm_episodes: int,
    reached: bool,
    beyond_doubt: bool,
) -> None:
    verdict = judge(np.array(returns, np.float32), target, confirm_episodes)
    assert verdict == (reached, beyond_doubt)
