"""n-step targets against a slow oracle that knows episodes, not rows."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.blocks import RowKind
from common.n_step import n_step_target

F, T, U = RowKind.FIRST, RowKind.TERMINATED, RowKind.TRUNCATED
S = RowKind.STEP
TRAP = 99.0
"""In cells that must not be read."""


def target(
    reward: list[float], kinds: list[RowKind], t: int, n: int, discount: float
) -> tuple[float, float, int]:
    g, d, m = n_step_target(np.array(reward, np.float32), np.array(kinds, np.uint8), t, n, discount)
    return float(g), float(d), int(m)


@pytest.mark.parametrize(
    ("reward", "kinds", "n", "expected"),
    [
        # γ = ½ throughout; the target is that of row 0.
        # One step: G = 3, discount ½, bootstrap row 1.
        ([3, TRAP], [F, S], 1, (3.0, 0.5, 1)),
        # Three steps: 4 + 2/2 + 8/4 = 7, discount ⅛.
        ([4, 2, 8, TRAP], [F, S, S, S], 3, (7.0, 0.125, 3)),
        # The episode terminates exactly at the bootstrap row: 4 + 2/2 + 8/4, no bootstrap.
        ([4, 2, 8, TRAP], [F, S, S, T], 3, (7.0, 0.0, 3)),
        # ... is truncated there: bootstrapped from as if nothing had happened.
        ([4, 2, 8, TRAP], [F, S, S, U], 3, (7.0, 0.125, 3)),
        # It terminates earlier: 4 + 2/2 = 5; the last row's reward is nobody's.
        ([4, 2, TRAP, TRAP], [F, S, T, F], 3, (5.0, 0.0, 2)),
        # It is truncated earlier: discount γ² for the two steps that were taken.
        ([4, 2, TRAP, TRAP], [F, S, U, F], 3, (5.0, 0.25, 2)),
        # Both at once counts as terminated.
        ([4, 2, TRAP, TRAP], [F, S, T | U, F], 3, (5.0, 0.0, 2)),
        # An episode of one step.
        ([4, TRAP, TRAP, TRAP], [F, T, F, S], 3, (4.0, 0.0, 1)),
        ([4, TRAP, TRAP, TRAP], [F, U, F, S], 3, (4.0, 0.5, 1)),
        # Rows behind the bootstrap row do not matter, whatever they are.
        ([4, 2, TRAP, TRAP], [F, S, S, T], 2, (5.0, 0.25, 2)),
    ],
)
def test_the_target_of_a_row_is_the_hand_worked_one(
    reward: list[float], kinds: list[RowKind], n: int, expected: tuple[float, float, int]
) -> None:
    assert target(reward, kinds, 0, n, 0.5) == expected


def test_without_discounting_the_return_is_the_plain_sum() -> None:
    assert target([1, 2, 3, 4, TRAP], [F, S, S, S, S], 0, 4, 1.0) == (10.0, 1.0, 4)


def test_a_discount_of_zero_keeps_the_first_reward_alone() -> None:
    assert target([1, 2, 3, TRAP], [F, S, S, S], 0, 3, 0.0) == (1.0, 0.0, 3)


@dataclass
class Stream:
    """Rows of consecutive episodes, and for each row where its episode ends."""

    reward: list[float] = field(default_factory=list)
    kind: list[RowKind] = field(default_factory=list)
    last_row: list[int] = field(default_factory=list)

    def add_episode(self, rewards: list[float], ending: RowKind) -> None:
        last = len(self.reward) + len(rewards)
        self.reward += [*rewards, math.nan]  # A last row's reward is a trap.
        self.kind += [S] * len(rewards) + [ending]
        self.kind[last - len(rewards)] |= F
        self.last_row += [last] * (len(rewards) + 1)

    def oracle(self, t: int, n: int, discount: float) -> tuple[float, float, int] | None:
        """(G_t, discount_t, bootstrap row) from the definition; None where nothing starts."""
        if t == self.last_row[t]:
            return None
        bootstrap = min(t + n, self.last_row[t])
        g = sum(discount ** (i - t) * self.reward[i] for i in range(t, bootstrap))
        terminated = bool(self.kind[bootstrap] & T)
        return g, 0.0 if terminated else discount ** (bootstrap - t), bootstrap


@st.composite
def streams(draw: st.DrawFn, rows: int) -> Stream:
    """At least `rows` rows; an episode may be cut at the end, as it is by a block."""
    stream = Stream()
    reward = st.floats(-10, 10, width=32)
    while len(stream.reward) < rows:
        rewards = draw(st.lists(reward, min_size=1, max_size=8))
        stream.add_episode(rewards, draw(st.sampled_from([T, U, T | U])))
    return stream


@settings(max_examples=200)
@given(streams(20), st.integers(1, 5), st.sampled_from([0.0, 0.5, 0.97, 1.0]))
def test_every_row_has_the_target_of_the_definition(
    stream: Stream, n: int, discount: float
) -> None:
    kinds = np.array(stream.kind, np.uint8)
    for t in range(20 - n):
        expected = stream.oracle(t, n, discount)
        if expected is None:
            continue
        # What lies before the row and behind its bootstrap row is other transitions' business.
        reward: npt.NDArray[np.float32] = np.array(stream.reward, np.float32)
        reward[:t] = reward[expected[2] :] = math.nan
        found = n_step_target(reward, kinds, t, n, discount)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ending", "kept"), [(T, 0.0), (U, 1.0)])
def test_an_episodes_end_emits_ever_shorter_tails(ending: RowKind, kept: float) -> None:
    """n = 3, γ = ½, four steps of reward 8: three steps 8 + 4 + 2 = 14, then 14, 12, 8."""
    reward, kinds = [8.0, 8.0, 8.0, 8.0, math.nan, TRAP], [F, S, S, S, ending, F]
    assert [target(reward, kinds, t, 3, 0.5) for t in range(4)] == [
        (14.0, 0.125, 3),
        (14.0, 0.125 * kept, 4),
        (12.0, 0.25 * kept, 4),
        (8.0, 0.5 * kept, 4),
    ]
