"""A batch is divided among servers as one table of them all would have drawn it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.shares import divide

MASSES = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=6).filter(any)


@given(st.integers(1, 600), MASSES, st.floats(0.0, 1.0, exclude_max=True))
def test_every_row_has_a_server_and_no_server_more_than_a_row_too_many(
    rows: int, masses: list[float], uniform: float
) -> None:
    counts, share = divide(rows, np.array(masses), uniform)
    assert counts.sum() == rows
    assert (np.abs(counts - share * rows) < 1.0 + 1e-6).all()
    assert (counts[np.array(masses) == 0.0] == 0).all()
    assert share.sum() == pytest.approx(1.0)


def test_over_many_batches_each_server_has_its_share_exactly() -> None:
    # Of 7 rows, shares of 1/2, 1/3 and 1/6 are 3.5, 2.333… and 1.166…: with uniform numbers from a
    # grid of 600 every mean is exact.
    counts = [divide(7, np.array([3.0, 2.0, 1.0]), k / 600)[0] for k in range(600)]
    assert np.mean(counts, axis=0) == pytest.approx([3.5, 7 / 3, 7 / 6])
    assert {tuple(c) for c in np.array(counts).tolist()} == {
        (3, 2, 2), (3, 3, 1), (4, 2, 1)
    }  # fmt: skip


def test_the_largest_uniform_number_gives_no_row_away() -> None:
    below_one = np.nextafter(1.0, 0.0)
    assert divide(512, np.full(3, 1 / 3), below_one)[0].sum() == 512
    assert divide(512, np.array([1.0, 0.0]), below_one)[0].tolist() == [512, 0]
