"""n-step targets against a slow oracle that knows episodes, not rows."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.blocks import BlockLayout, RowKind
from common.n_step import block_targets, n_step_target

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


@st.composite
def blocks(draw: st.DrawFn) -> tuple[BlockLayout, list[Stream]]:
    layout = BlockLayout(
        length=draw(st.integers(1, 12)),
        n_step=draw(st.integers(1, 5)),
        context=draw(st.integers(0, 3)),
    )
    return layout, draw(st.lists(streams(layout.rows), min_size=1, max_size=3))


@settings(deadline=None, max_examples=200)
@given(blocks(), st.sampled_from([0.0, 0.5, 0.97, 1.0]))
def test_every_row_of_a_block_has_the_target_of_the_definition(
    drawn: tuple[BlockLayout, list[Stream]], discount: float
) -> None:
    layout, drawn_streams = drawn
    reward = np.array([s.reward[: layout.rows] for s in drawn_streams], np.float32)
    kinds = np.array([s.kind[: layout.rows] for s in drawn_streams], np.uint8)
    # No target reaches into the context, nor to the reward of the block's last row.
    reward[:, : layout.context] = math.nan
    reward[:, -1] = math.nan

    n_step_return, discounts, bootstrap, starts = block_targets(
        reward, kinds, layout.context, layout.length, layout.n_step, discount
    )

    for b, stream in enumerate(drawn_streams):
        for i in range(layout.length):
            expected = stream.oracle(layout.context + i, layout.n_step, discount)
            assert starts[b, i] == (expected is not None)
            found = n_step_return[b, i], discounts[b, i], bootstrap[b, i]
            if expected is None:
                assert found == (0.0, 0.0, 0)
            else:
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=100)
@given(streams(20), st.integers(1, 5), st.integers(0, 10))
def test_one_row_alone_has_the_target_of_the_definition(stream: Stream, n: int, t: int) -> None:
    expected = stream.oracle(t, n, 0.9)
    if expected is None:
        return
    # What lies behind the bootstrap row is another transition's business.
    reward: npt.NDArray[np.float32] = np.array(stream.reward, np.float32)
    reward[expected[2] :] = math.nan
    kinds = np.array(stream.kind, np.uint8)
    np.testing.assert_allclose(n_step_target(reward, kinds, t, n, 0.9), expected, rtol=1e-5)


@pytest.mark.parametrize("ending", [T, U])
def test_an_episodes_end_emits_ever_shorter_tails(ending: RowKind) -> None:
    """n = 3, γ = ½, four steps of reward 8: three steps 8 + 4 + 2 = 14, then 14, 12, 8."""
    reward = np.array([[8, 8, 8, 8, math.nan, TRAP, TRAP, TRAP]], np.float32)
    kinds = np.array([[F, S, S, S, ending, F, S, S]], np.uint8)
    g, d, m, starts = block_targets(reward, kinds, 0, 5, 3, 0.5)
    kept = 1.0 if ending == U else 0.0
    assert g[0].tolist() == [14.0, 14.0, 12.0, 8.0, 0.0]
    assert d[0].tolist() == [0.125, 0.125 * kept, 0.25 * kept, 0.5 * kept, 0.0]
    assert m[0].tolist() == [3, 4, 4, 4, 0]
    assert starts[0].tolist() == [True, True, True, True, False]
