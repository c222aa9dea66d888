"""Memory, file descriptors and threads of every process, over time."""

import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import psutil

from tests.soak.run import SoakRun, role_of

PERIOD_S = 1.0
YOUNG_S = 3.0
"""A process is looked at from this age on: before, it still imports and builds."""


@dataclass(frozen=True, slots=True)
class Use:
    """Of one role, in half of the soak; of several processes, the one that takes most."""

    memory_bytes: float
    """In the median. Anonymous: the mapped storage, which is the system's cache, is not in it."""
    descriptors: float
    """At most: how many there are depends on who is connected at the moment."""
    threads: float
    """At most."""


class Watch:
    """A context manager: while it lasts, a thread looks at the run's processes."""

    def __init__(self, run: SoakRun) -> None:
        self._run = run
        self._stop = threading.Event()
        self._seen: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
        self._thread = threading.Thread(target=self._look, name="resources")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def halves(self) -> dict[str, tuple[Use, Use]]:
        """What each role took in the first half of the soak and in the second."""
        return {
            role: (_use(seen[: len(seen) // 2]), _use(seen[len(seen) // 2 :]))
            for role, seen in self._seen.items()
            if len(seen) >= 4
        }

    def _look(self) -> None:
        while not self._stop.wait(PERIOD_S):
            looks: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
            for name, process in self._run.processes().items():
                use = _use_of(process)
                if use is not None:
                    looks[role_of(name)].append(use)
            for role, uses in looks.items():
                self._seen[role].append(tuple(np.max(uses, axis=0)))


def _use_of(process: psutil.Process) -> tuple[float, float, float] | None:
    try:
        age_s = time.time() - process.create_time()
        if age_s < YOUNG_S or process.status() == psutil.STATUS_ZOMBIE:
            return None
        memory = process.memory_info()
        anonymous = memory.rss - memory.shared
        return anonymous, process.num_fds(), process.num_threads()
    except (psutil.Error, OSError):
        return None


def _use(seen: list[tuple[float, float, float]]) -> Use:
    memory_bytes, _, _ = np.median(seen, axis=0)
    _, descriptors, threads = np.max(seen, axis=0)
    return Use(float(memory_bytes), float(descriptors), float(threads))
