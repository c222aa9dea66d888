"""Blocks against slices of the whole stream, and first priorities against the definition."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actor.blocks import BlockBuilder, Blocks, initial_priority
from common.blocks import BlockLayout, RowKind
from common.spec import EnvSpec

SPEC = EnvSpec((2,), "<i4", 3)
DISCOUNT = 0.5
TRAP = 99.0
"""In cells that must not be read."""
F, S, T, U = RowKind.FIRST, RowKind.STEP, RowKind.TERMINATED, RowKind.TRUNCATED


@dataclass(frozen=True)
class Row:
    """What a stream holds at one observation."""

    obs: tuple[int, int]
    kind: RowKind
    q_values: tuple[float, ...]
    action: int
    reward: float

    @property
    def is_last(self) -> bool:
        return bool(self.kind & RowKind.LAST)


def make_stream(number: int, kinds: list[RowKind], seed: int = 0) -> list[Row]:
    rng = np.random.default_rng([seed, number])
    rows = []
    for t, kind in enumerate(kinds):
        q_values = tuple(np.round(rng.normal(size=3), 3).tolist())
        last = bool(kind & RowKind.LAST)
        action, reward = int(rng.integers(3)), float(np.round(rng.normal(), 3))
        rows.append(
            Row((number, t), kind, q_values, 0 if last else action, 0.0 if last else reward)
        )
    return rows


def feed(builder: BlockBuilder, streams: dict[int, Row]) -> Blocks | None:
    """One row for each of some streams: seen together, then acted upon unless it is a last one."""
    numbers, rows = np.array(list(streams), np.int64), list(streams.values())
    blocks = builder.see(
        numbers,
        np.array([r.obs for r in rows], np.int32),
        np.array([r.kind for r in rows], np.uint8),
        np.array([r.q_values for r in rows], np.float32),
    )
    acting = [i for i, row in enumerate(rows) if not row.is_last]
    builder.act(
        numbers[acting],
        np.array([rows[i].action for i in acting], np.int64),
        np.array([rows[i].reward for i in acting]),
    )
    return blocks


def expected_priority(stream: list[Row], t: int, n: int) -> float:
    """|δ| of row t from the definition; 0 where nothing starts."""
    if stream[t].is_last:
        return 0.0
    ends = [i for i in range(t + 1, t + n) if stream[i].is_last]
    bootstrap = ends[0] if ends else t + n
    target = sum(DISCOUNT ** (i - t) * stream[i].reward for i in range(t, bootstrap))
    if not stream[bootstrap].kind & T:
        target += DISCOUNT ** (bootstrap - t) * max(stream[bootstrap].q_values)
    return abs(target - stream[t].q_values[stream[t].action])


def assert_block(blocks: Blocks, b: int, stream: list[Row], k: int, layout: BlockLayout) -> None:
    """Block k of a stream is its rows kL − C … kL + L + n − 1; before the stream lie zeros."""
    first = k * layout.length - layout.context
    for i in range(layout.rows):
        t = first + i
        row = stream[t] if t >= 0 else Row((0, 0), S, (0.0,) * 3, 0, 0.0)
        assert tuple(blocks.obs[b, i].tolist()) == row.obs
        assert blocks.row_kind[b, i] == row.kind
        if i < layout.rows - 1:  # The newest row is only seen when the block is cut.
            assert blocks.action[b, i] == row.action
            assert blocks.reward[b, i] == np.float32(row.reward)
        else:
            assert (blocks.action[b, i], blocks.reward[b, i]) == (0, 0.0)
    expected = [
        expected_priority(stream, k * layout.length + i, layout.n_step)
        for i in range(layout.length)
    ]
    np.testing.assert_allclose(blocks.priority[b], expected, rtol=1e-4, atol=1e-5)


@st.composite
def episodes(draw: st.DrawFn, rows: int) -> list[RowKind]:
    """Kinds of `rows` rows of consecutive episodes."""
    kinds: list[RowKind] = []
    while len(kinds) < rows:
        steps = draw(st.integers(1, 7))
        kinds += [F, *[S] * (steps - 1), draw(st.sampled_from([T, U]))]
    return kinds[:rows]


layouts = st.builds(
    BlockLayout, length=st.integers(1, 8), n_step=st.integers(1, 5), context=st.integers(0, 3)
)


@settings(max_examples=50)
@given(st.data(), layouts)
def test_blocks_are_overlapping_slices_of_their_streams(
    data: st.DataObject, layout: BlockLayout
) -> None:
    """Two streams that go on at their own pace."""
    streams = [make_stream(s, data.draw(episodes(30))) for s in (0, 1)]
    builder = BlockBuilder(2, SPEC, layout, DISCOUNT)
    seen, cut = [0, 0], [0, 0]
    while min(seen) < 30:
        ready = [s for s in (0, 1) if seen[s] < 30]
        chosen = data.draw(st.lists(st.sampled_from(ready), min_size=1, unique=True))
        blocks = feed(builder, {s: streams[s][seen[s]] for s in chosen})
        for s in chosen:
            seen[s] += 1
        # The context stands before the stream: a block is due with each L rows after the first n.
        due = [s for s in chosen if seen[s] == (cut[s] + 1) * layout.length + layout.n_step]
        assert (0 if blocks is None else len(blocks.action)) == len(due)
        for b, s in enumerate(due):
            assert blocks is not None
            assert_block(blocks, b, streams[s], cut[s], layout)
            cut[s] += 1


def test_neighbouring_blocks_overlap_by_context_and_tail() -> None:
    """C = 1, L = 2, n = 2: blocks of 5 rows that begin 2 rows apart, one row of context first."""
    layout = BlockLayout(length=2, n_step=2, context=1)
    stream = make_stream(1, [F, S, S, S, T, F, S, S, S])
    builder = BlockBuilder(2, SPEC, layout, DISCOUNT)
    cut = [b for row in stream if (b := feed(builder, {1: row})) is not None]
    times = [b.obs[0, :, 1].tolist() for b in cut]
    assert times == [[0, 0, 1, 2, 3], [1, 2, 3, 4, 5], [3, 4, 5, 6, 7]]
    kinds = [b.row_kind[0].tolist() for b in cut]
    assert kinds == [[S, F, S, S, S], [S, S, S, T, F], [S, T, F, S, S]]


def test_a_block_does_not_change_when_its_stream_goes_on() -> None:
    layout = BlockLayout(length=2, n_step=1)
    stream = make_stream(0, [F, S, S, S, S, S, S, S])
    builder = BlockBuilder(1, SPEC, layout, DISCOUNT)
    cut = [b for row in stream[:3] if (b := feed(builder, {0: row})) is not None]
    before = {name: getattr(cut[0], name).copy() for name in Blocks.__dataclass_fields__}
    for row in stream[3:]:
        feed(builder, {0: row})
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(cut[0], name), array)


def test_the_newest_row_of_a_block_gets_its_action_in_the_next_one() -> None:
    layout = BlockLayout(length=1, n_step=1)
    stream = make_stream(0, [F, S, S])
    builder = BlockBuilder(1, SPEC, layout, DISCOUNT)
    _, first, second = (feed(builder, {0: row}) for row in stream)
    assert first is not None
    assert second is not None
    assert (first.action[0, 1], first.reward[0, 1]) == (0, 0.0)
    assert (second.action[0, 0], second.reward[0, 0]) == (
        stream[1].action,
        np.float32(stream[1].reward),
    )


def _priorities(
    q_values: list[list[float]], action: list[int], reward: list[float], kinds: list[RowKind]
) -> list[float]:
    layout = BlockLayout(length=len(kinds) - 2, n_step=2)
    columns: tuple[npt.NDArray[Any], ...] = (
        np.array([q_values], np.float32),
        np.array([action], np.int32),
        np.array([reward], np.float32),
        np.array([kinds], np.uint8),
    )
    return initial_priority(*columns, layout, DISCOUNT)[0].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        # n = 2, γ = ½; row 2 is the episode's last and starts nothing.
        # Terminated there: |4 + 2/2 − 1| = 4, then after one step |2 − 5| = 3.
        (T, [4.0, 3.0, 0.0]),
        # Truncated: |4 + 2/2 + ¼·max(8, 4) − 1| = 6, then |2 + ½·8 − 5| = 1.
        (U, [6.0, 1.0, 0.0]),
    ],
)
def test_first_priorities_are_the_hand_worked_ones(ending: RowKind, expected: list[float]) -> None:
    priority = _priorities(
        q_values=[[1.0, TRAP], [TRAP, 5.0], [8.0, 4.0], [TRAP, TRAP], [TRAP, TRAP]],
        action=[0, 1, 0, 0, 0],
        reward=[4.0, 2.0, TRAP, TRAP, TRAP],
        kinds=[F, S, ending, F, S],
    )
    assert priority == expected


def test_first_priorities_are_magnitudes() -> None:
    # 1 + 1/2 + ¼·0 − 10 = −8.5
    priority = _priorities([[10.0], [0.0], [0.0]], [0, 0, 0], [1.0, 1.0, TRAP], [F, S, S])
    assert priority == [8.5]
