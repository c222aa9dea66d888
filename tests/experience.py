"""Blocks of experience for tests, and the slowest way to read transitions out of them.

Every row of a block tells where it comes from: its observation, action and reward are made of one
running number. Cells that nobody may read hold the trap 99.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
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
                insert.obs[block, start].tolist(),
                int(insert.action[block, start]),
                n_step_return,
                0.0 if kinds[here] in (TERMINATED, BOTH) else product,
                insert.obs[block, here].tolist(),
                float(insert.priority[block, offset]),
            )
    return found
