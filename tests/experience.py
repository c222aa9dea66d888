"""Blocks of experience for tests, and the slowest way to read transitions out of them.

Every row of a block tells where it comes from: its observation, action and reward are made of one
running number. Cells that nobody may read hold the trap 99.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from common.blocks import BlockLayout, RowKind
from common.messages import Insert
from common.spec import EnvSpec

SPEC = EnvSpec((2,), "<f4", 5)
LAYOUT = BlockLayout(length=4, n_step=3)
DISCOUNT = 0.5
"""Its powers times whole rewards are exact in float32, so that results are compared by ==."""
TRAP = 99.0

STEP, FIRST = RowKind.STEP, RowKind.FIRST
TERMINATED, TRUNCATED = RowKind.TERMINATED, RowKind.TRUNCATED
BOTH = TERMINATED | TRUNCATED
"""An episode may end and be cut off in the same step: it has terminated."""
Kinds = Sequence[Sequence[int]]
"""[B, R] `RowKind` flags."""


class Transition(NamedTuple):
    obs: list[float]
    """The newest observation, or with a context the stack, oldest first."""
    action: int
    n_step_return: float
    discount: float
    next_obs: list[float]
    priority: float


def steps(blocks: int = 1, layout: BlockLayout = LAYOUT) -> Kinds:
    """Blocks from the middle of an episode: every row may start a transition that may start one."""
    return [[STEP] * layout.rows] * blocks


def row_kinds(layout: BlockLayout = LAYOUT, max_blocks: int = 3) -> st.SearchStrategy[Kinds]:
    """Episodes that begin and end anywhere."""
    kind = st.sampled_from([STEP, STEP, STEP, FIRST, TERMINATED, TRUNCATED, BOTH])
    block = st.lists(kind, min_size=layout.rows, max_size=layout.rows)
    return st.lists(block, min_size=1, max_size=max_blocks)


def is_last(kind: int) -> bool:
    return kind in (TERMINATED, TRUNCATED, BOTH)


def insert(
    kinds: Kinds,
    *,
    session: int = 0,
    sequence: int = 0,
    oldest: int | None = None,
    connection: int = 0,
    weights_version: int = 0,
    layout: BlockLayout = LAYOUT,
    spec: EnvSpec = SPEC,
) -> Insert:
    """An insert of these blocks; its rows are numbered on from session and sequence. `oldest`: None
    if everything before it is acknowledged."""
    row_kind = np.array(kinds, np.uint8)
    blocks, rows = row_kind.shape
    assert rows == layout.rows
    first = (100 * sequence + 7 * session) % 10_000
    number = np.arange(first, first + row_kind.size).reshape(blocks, rows)
    obs = np.zeros((blocks, rows, *spec.obs_shape), spec.dtype)
    obs += (number % 120).reshape(blocks, rows, *[1] * len(spec.obs_shape)).astype(spec.dtype)
    last = np.isin(row_kind, [TERMINATED, TRUNCATED, BOTH])
    starts = ~last[:, layout.context : layout.context + layout.length]
    return Insert(
        session,
        sequence,
        weights_version,
        obs,
        np.where(last, spec.num_actions - 1, number % spec.num_actions).astype(np.int32),
        np.where(last, TRAP, number % 17 - 8).astype(np.float32),
        row_kind,
        np.where(starts, number[:, : layout.length] % 15 / 4 + 0.25, TRAP).astype(np.float32),
        oldest=sequence if oldest is None else oldest,
        connection=connection,
    )


def transitions(
    insert: Insert, layout: BlockLayout = LAYOUT, discount: float = DISCOUNT
) -> Mapping[tuple[int, int], Transition]:
    """The n-step transitions of an insert by (block, row − context), walked one step at a time."""
    found = {}
    for block, kinds in enumerate(insert.row_kind.tolist()):
        for offset in range(layout.length):
            start = here = layout.context + offset
            if is_last(kinds[start]):
                continue
            n_step_return, product = 0.0, 1.0
            for _ in range(layout.n_step):
                n_step_return += product * float(insert.reward[block, here])
                product *= discount
                here += 1
                if is_last(kinds[here]):
                    break
            found[block, offset] = Transition(
                _seen(insert, block, start, start, layout),
                int(insert.action[block, start]),
                n_step_return,
                0.0 if kinds[here] in (TERMINATED, BOTH) else product,
                _seen(insert, block, start, here, layout),
                float(insert.priority[block, offset]),
            )
    return found


def _seen(insert: Insert, block: int, start: int, at: int, layout: BlockLayout) -> list[float]:
    """What the network sees at row `at` of the episode that the row `start` is in: the newest
    context + 1 observations, never one before the episode's first."""
    rows = [at]
    while len(rows) <= layout.context:
        oldest = rows[0]
        is_first = oldest <= start and insert.row_kind[block, oldest] & FIRST
        rows.insert(0, oldest if is_first else oldest - 1)
    stack: list[float] = insert.obs[block, rows].tolist()
    return stack if layout.context else stack[0]


def seen(
    frames: npt.NDArray[Any], shift: npt.NDArray[np.uint8], layout: BlockLayout = LAYOUT
) -> tuple[list[Any], list[Any]]:
    """What `Transition` calls obs and next_obs, from a batch's frames [N, U, *obs_shape]."""
    stack = layout.context + 1
    obs = [f[:stack].tolist() for f in frames]
    next_obs = [f[s : s + stack].tolist() for f, s in zip(frames, shift.tolist(), strict=True)]
    if layout.context:
        return obs, next_obs
    return [o[0] for o in obs], [o[0] for o in next_obs]
