"""How transitions are chosen: in proportion to priority, or uniformly.

Items are numbered 0 … capacity−1 (slot × L + row). Samplers know nothing of what an item is.
"""

from typing import Any, Protocol

import numba
import numpy as np
import numpy.typing as npt

from replay_server.sum_tree import SumTree

Int64Vector = npt.NDArray[np.int64]
Float64Vector = npt.NDArray[np.float64]


MAX_MASS = np.float32(1e30)
"""A larger p^α counts as this: the sum over any table must be a float32."""


class Sampler(Protocol):
    """Chooses among items. `size` items can be drawn."""

    size: int

    @property
    def mass(self) -> float:
        """What probabilities are relative to."""

    def write(
        self, first: int, priority: npt.NDArray[Any], drawable: npt.NDArray[np.bool_]
    ) -> None:
        """What the items first … first+K−1 held before is gone; from now on those that are
        `drawable` [K] can be drawn, with the raw `priority` |δ| [K]."""

    def update(self, items: Int64Vector, priority: npt.NDArray[Any]) -> None:
        """New |δ| [K] of items that can be drawn; for an item that comes twice the last counts."""

    def sample(self, n: int) -> tuple[Int64Vector, Float64Vector]:
        """n items (with replacement) and the probability with which each was drawn. Needs
        size > 0."""


class PrioritizedSampler:
    """P(i) = p_i^α / Σ_k p_k^α with p_i = |δ_i| + ε (Schaul et al. 2016, eq. 1, proportional).

    The exponent α is applied here and nowhere else. ε > 0: a transition without error can still be
    drawn.
    """

    def __init__(
        self, capacity: int, exponent: float, epsilon: float, rng: np.random.Generator
    ) -> None:
        self._tree = SumTree(capacity)
        # The tree's leaves are float32, too.
        self._exponent = np.float32(exponent)
        self._epsilon = np.float32(epsilon)
        self._rng = rng
        self.size = 0

    @property
    def mass(self) -> float:
        return self._tree.total

    def write(
        self, first: int, priority: npt.NDArray[Any], drawable: npt.NDArray[np.bool_]
    ) -> None:
        mass = _masses_where(priority, drawable, self._epsilon, self._exponent)
        self.size += self._tree.set_range(first, mass)

    def update(self, items: Int64Vector, priority: npt.NDArray[Any]) -> None:
        self._tree.set(items, _masses(priority, self._epsilon, self._exponent))

    def sample(self, n: int) -> tuple[Int64Vector, Float64Vector]:
        return self._tree.sample_stratified(self._rng.random(n))


@numba.njit(cache=True, nogil=True)
def _masses(priority, epsilon, exponent):  # type: ignore[no-untyped-def]
    mass = np.empty(len(priority), np.float32)
    for i in range(len(priority)):
        mass[i] = min((np.float32(priority[i]) + epsilon) ** exponent, MAX_MASS)
    return mass


@numba.njit(cache=True, nogil=True)
def _masses_where(priority, drawable, epsilon, exponent):  # type: ignore[no-untyped-def]
    mass = _masses(priority, epsilon, exponent)
    for i in range(len(priority)):
        if not drawable[i]:
            mass[i] = 0.0
    return mass


def uniform_bytes(capacity: int) -> int:
    """Memory that a uniform sampler takes."""
    return 2 * capacity * np.dtype(np.int64).itemsize


class UniformSampler:
    """Every item with the same probability; priorities are ignored."""

    def __init__(self, capacity: int, rng: np.random.Generator) -> None:
        # A dense list of the items that can be drawn, and each item's place in it (−1: absent).
        self._items = np.empty(capacity, np.int64)
        self._place = np.full(capacity, -1, np.int64)
        self._rng = rng
        self.size = 0

    @property
    def mass(self) -> float:
        return float(self.size)

    def write(
        self, first: int, priority: npt.NDArray[Any], drawable: npt.NDArray[np.bool_]
    ) -> None:
        items = np.arange(first, first + len(drawable))
        self._remove(items[self._place[items] >= 0])
        added = items[drawable]
        places = np.arange(self.size, self.size + len(added))
        self._items[places] = added
        self._place[added] = places
        self.size += len(added)

    def update(self, items: Int64Vector, priority: npt.NDArray[Any]) -> None:
        pass

    def sample(self, n: int) -> tuple[Int64Vector, Float64Vector]:
        chosen = self._items[self._rng.integers(self.size, size=n)]
        return chosen, np.full(n, 1.0 / self.size)

    def _remove(self, items: Int64Vector) -> None:
        kept = self.size - len(items)
        holes = self._place[items]
        holes = holes[holes < kept]
        self._place[items] = -1
        # What stands behind the new end moves into the holes, so that the list stays dense.
        tail = self._items[kept : self.size]
        movers = tail[self._place[tail] >= 0]
        self._items[holes] = movers
        self._place[movers] = holes
        self.size = kept
