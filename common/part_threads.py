"""Threads for the parts of one piece of work that releases the interpreter, such as copying."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MAX_THREADS = 4
PART_BYTES = 4 << 20
"""A part that is worth a thread, and that lies in the cache while it is worked on."""

Part = TypeVar("Part")
Result = TypeVar("Result")


class PartThreads:
    """Started when they are first needed.

    Args:
        name: of the threads.
        count: by default as many as this process may use cores, up to `MAX_THREADS`.
    """

    def __init__(self, name: str, count: int | None = None) -> None:
        self.count = count or min(MAX_THREADS, len(os.sched_getaffinity(0)))
        self._name = name
        self._pool: ThreadPoolExecutor | None = None

    def map(self, work: Callable[[Part], Result], parts: Iterable[Part]) -> list[Result]:
        """What the work gives for each part, in order; raises what the first of them raises."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.count, self._name)
        return list(self._pool.map(work, parts))

    def close(self) -> None:
        """End them; they can be started again."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
