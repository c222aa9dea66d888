"""Writes how a run goes to wherever people look: a file, TensorBoard, Weights & Biases.

One thread takes records from a short queue. Who offers them never waits: what a slow sink has no
room for is dropped and counted. A sink that cannot be written (a disk that is full for a while) is
said once and tried again with the next record; one that fails otherwise is left out from then on.
"""

import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.metrics import Values

QUEUE_RECORDS = 60
CLOSE_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One moment of a run."""

    time_s: float
    """Since the epoch, in seconds."""
    wall_s: float
    """Since the run began, all its parts together."""
    env_steps: int
    updates: int
    values: Values = field(default_factory=dict)
    """By the names of `common/metric_table.py`; of histograms their quantiles."""
    brought: Values = field(default_factory=dict)
    """As `learner.run_metrics.RunMetrics.brought`."""
    episode_returns: Sequence[float] = ()
    """Raw returns of training episodes that ended since the last record."""
    episode_lengths: Sequence[int] = ()
    evaluation: dict[str, float] | None = None
    """return_mean, return_std, episodes and updates of one that came since the last record."""


class Sink(Protocol):
    """Where records go. Called by one thread alone."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None:
        """Everything written so far is to be found afterwards."""


class Recorder:
    """Give records by `offer`; `close` at the end."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)
        self._unwritable: list[Sink] = []
        self._queue: queue.Queue[Record | None] = queue.Queue(QUEUE_RECORDS)
        # Each counted by one thread alone.
        self._refused = self._failed = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Records there was no room for, and those at which a sink failed."""
        return self._refused + self._failed

    def offer(self, record: Record) -> None:
        """Hand over a record, or drop it."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._refused += 1

    def close(self) -> None:
        """Write what is queued, for `CLOSE_TIMEOUT_S` at most."""
        try:
            self._queue.put(None, timeout=CLOSE_TIMEOUT_S)
        except queue.Full:
            log.warning("metrics cannot be written: a disk or a service does not answer")
            return
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            for sink in list(self._sinks):
                self._write(sink, record)
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                log.warning("%s may lack its last metrics: %s", type(sink).__name__, error)

    def _write(self, sink: Sink, record: Record) -> None:
        name = type(sink).__name__
        try:
            sink.write(record)
        except OSError as error:
            self._failed += 1
            if sink not in self._unwritable:
                self._unwritable.append(sink)
                log.warning("%s gets no metrics for now: %s", name, error)
        except Exception as error:
            self._failed += 1
            self._sinks.remove(sink)
            log.warning("%s gets no more metrics: %s", name, error)
        else:
            if sink in self._unwritable:
                self._unwritable.remove(sink)
                log.warning("%s gets metrics again", name)
