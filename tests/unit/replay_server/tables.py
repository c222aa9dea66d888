"""Small tables, and what peers say to them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st

from common.blocks import BlockLayout
from common.compression import CompressedArray
from common.errors import Reason
from common.messages import Batch, Insert, PartRequest, SampleRequest
from common.packing import compressed
from common.rate_limiter import RateLimiter
from common.spec import EnvSpec
from replay_server.sampler import PrioritizedSampler, Sampler, UniformSampler
from replay_server.storage import Storage
from replay_server.table import Reply, Table
from tests.experience import DISCOUNT, LAYOUT, SPEC, insert, steps

ACTOR, LEARNER = b"actor", b"learner"
EXPONENT, EPSILON = 0.6, 1e-6
IMAGES, IMAGE_LAYOUT = EnvSpec((84, 84), "|u1", 5), BlockLayout(length=4, n_step=3, context=1)
IMAGE_BLOCKS = 2
"""In an insert of images."""


def make_table(
    *,
    slots: int = 4,
    batch_size: int = 4,
    samples_per_insert: float | None = None,
    min_size_to_sample: int = 1,
    tolerance: float = 0.0,
    insert_window: int = 1_000,
    prioritized: bool = True,
    path: Path | None = None,
    spec: EnvSpec = SPEC,
    layout: BlockLayout = LAYOUT,
) -> Table:
    items, rng = slots * layout.length, np.random.default_rng(0)
    sampler: Sampler = (
        PrioritizedSampler(items, EXPONENT, EPSILON, rng)
        if prioritized
        else UniformSampler(items, rng)
    )
    return Table(
        Storage(spec, layout, slots, path),
        sampler,
        RateLimiter(samples_per_insert, min_size_to_sample, tolerance, batch_size),
        discount=DISCOUNT,
        batch_size=batch_size,
        insert_window=insert_window,
    )


def images(seed: int) -> npt.NDArray[np.uint8]:
    """Of an insert: squares of many greys, some of which are other ones in each frame."""
    rng = np.random.default_rng(seed)
    squares = np.empty((IMAGE_BLOCKS, IMAGE_LAYOUT.rows, 12, 12), np.uint8)
    squares[:] = rng.integers(0, 256, (12, 12), np.uint8)
    squares[:, :, :2] = rng.integers(0, 256, squares[:, :, :2].shape, np.uint8)
    return squares.repeat(7, axis=2).repeat(7, axis=3)


def packed_insert(seed: int, method: str = "delta+lz4", sequence: int = 0) -> Insert:
    obs = compressed(images(seed), method)
    assert isinstance(obs, CompressedArray)
    kinds = steps(IMAGE_BLOCKS, IMAGE_LAYOUT)
    return replace(insert(kinds, sequence=sequence, layout=IMAGE_LAYOUT, spec=IMAGES), obs=obs)


def unpackings(monkeypatch: pytest.MonkeyPatch) -> list[CompressedArray]:
    """What is unpacked from now on."""
    found: list[CompressedArray] = []
    copy_to = CompressedArray.copy_to

    def counted(array: CompressedArray, out: Any) -> None:
        found.append(array)
        copy_to(array, out)

    monkeypatch.setattr(CompressedArray, "copy_to", counted)
    return found


def request(batches: int = 1, updates: Iterable[tuple[int, float]] = ()) -> SampleRequest:
    """Ask for batches and send (key, priority) pairs."""
    pairs = list(updates)
    return SampleRequest(
        batches,
        np.array([key for key, _ in pairs], np.int64),
        np.array([priority for _, priority in pairs], np.float32),
    )


def part(rows: int, counted: int = 0, number: int = 1, *, keys_only: bool = False) -> PartRequest:
    """Ask for a part of a batch."""
    return PartRequest(number, rows, counted, keys_only=keys_only)


def updates(max_size: int = 12) -> st.SearchStrategy[SampleRequest]:
    """Priorities for transitions that are stored, evicted or nobody's, some of them twice."""
    priority = st.integers(1, 16).map(lambda quarters: quarters / 4)
    pairs = st.lists(st.tuples(st.integers(-3, 40), priority), max_size=max_size)
    return pairs.map(lambda pairs: request(0, pairs))


def rejected(table: Table) -> dict[Reason, int]:
    """Messages that it did not accept, by reason."""
    return {reason: count for reason, count in table.rejections.by_reason.items() if count}


def batches(replies: Iterable[Reply]) -> list[Batch]:
    return [message for _, message in replies if isinstance(message, Batch)]


def draw(table: Table) -> Batch:
    """One batch, asked for and received."""
    (batch,) = batches(table.handle(LEARNER, request(), 0.0))
    return batch


def power_law(priority: Mapping[int, float]) -> dict[int, float]:
    """P(i) = (p_i + ε)^α / Σ_k (p_k + ε)^α by key."""
    mass = {key: (p + EPSILON) ** EXPONENT for key, p in priority.items()}
    return {key: m / math.fsum(mass.values()) for key, m in mass.items()}
