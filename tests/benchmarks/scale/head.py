"""The head's process: the learner's own control plane and feed. Only the network's update, which a
GPU would do, is missing: whatever batch comes is used up, and given new priorities, at once."""

import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import zmq

from common.descriptors import raise_limit
from common.messages import ACTING, NamedTensors
from common.networks import build_network
from common.rejections import Rejections
from common.trace import NO_TRACE
from learner.control import ControlPlane
from learner.feed import Feed
from learner.host_memory import keep_freed_memory
from learner.sinks import JsonLines
from learner.status import LearnerCounters
from learner.weights import Snapshot
from tests.benchmarks.scale.plan import Plan
from tests.open_head import open_head
from tests.tcp_bytes import carried_by_port

WAIT_S = 0.02
"""For a batch, or for a word of the driver."""
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class HeadReading:
    """What the head's process has done since it began."""

    at_s: float
    """By time.perf_counter()."""
    cpu_s: dict[str, float]
    """Processor time of its threads: control (with the recorder's), feed and zeromq."""
    resident: int
    """Bytes; the storage that it maps is among them."""
    shared: int
    """Of those, bytes of files and shared memory."""
    batches_due: int
    """Since the pace was set."""
    batches: int
    """That came since then."""
    all_batches: int
    """That ever came."""
    versions: dict[int, float]
    """When each version of the weights was published, by time.monotonic()."""
    overwritten: int


def serve_head(plan: Plan, driver: Connection) -> None:
    """The process. Tells its address, then answers commands until the pipe ends:

    - read: a HeadReading;
    - publish: a version of the weights now, and its number;
    - pace: batches are due from now on, and none from before;
    - rest: no batch is due any more;
    - carried: bytes on its connections, by port.
    """
    raise_limit()
    torch.set_num_threads(1)
    keep_freed_memory()
    with (
        tempfile.TemporaryDirectory(prefix="zapex-") as directory,
        zmq.Context() as context,
        open_head(
            context,
            "tcp://127.0.0.1:0",
            plan.manifest,
            counters=LearnerCounters(phase="training"),
            wall_s=time.monotonic,
            sinks=[JsonLines(Path(directory) / "metrics.jsonl")],
        ) as control,
    ):
        driver.send(control.endpoint)
        head = _Head(plan, control)
        try:
            head.serve(driver)
        except (EOFError, BrokenPipeError):
            pass
        finally:
            head.rest()


class _Head:
    def __init__(self, plan: Plan, control: ControlPlane) -> None:
        self._plan, self._control = plan, control
        manifest = plan.manifest
        network = build_network(manifest.config, manifest.spec)
        self._tensors: NamedTensors = Snapshot(network, manifest.config.publish_dtype).tensors()
        self._rng = np.random.default_rng(0)
        self._feed: Feed | None = None
        self._paced_s: float | None = None
        self._batches = self._all_batches = 0
        self._versions: dict[int, float] = {}
        self._next_version_s = 0.0

    def serve(self, driver: Connection) -> None:
        while True:
            while driver.poll():
                driver.send(self._answer(driver.recv()))
            period_s = self._plan.publish_period_s
            if period_s is not None and time.monotonic() >= self._next_version_s:
                self._next_version_s = max(self._next_version_s + period_s, time.monotonic())
                self._publish()
            if self._due() > self._batches:
                self._use_a_batch()
            else:
                driver.poll(self._idle_s())

    def rest(self) -> None:
        """No more batches."""
        self._paced_s = None
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    def _answer(self, command: str) -> Any:
        if command == "read":
            return self._read()
        if command == "publish":
            return self._publish()
        if command == "carried":
            return carried_by_port()
        if command == "pace":
            self._batches, self._paced_s = 0, time.perf_counter()
        if command == "rest":
            self.rest()
        return None

    def _publish(self) -> int:
        version = len(self._versions)
        self._versions[version] = time.monotonic()
        self._control.publish(ACTING, 0, version, self._tensors)
        return version

    def _due(self) -> int:
        """Batches since the pace was set; one more than there were where there is no pace."""
        rate = self._plan.batches_per_s
        if self._paced_s is None:
            return 0
        if rate is None:
            return self._batches + 1
        return int((time.perf_counter() - self._paced_s) * rate)

    def _idle_s(self) -> float:
        """Until the next batch is due, or a look at the clock."""
        rate = self._plan.batches_per_s
        if self._paced_s is None or not rate:
            return WAIT_S
        left_s = self._paced_s + (self._batches + 1) / rate - time.perf_counter()
        return min(max(left_s, 0.0), WAIT_S)

    def _use_a_batch(self) -> None:
        if self._feed is None:
            self._feed = self._control.open_feed(
                WAIT_S, CPU, NO_TRACE, NO_TRACE, Rejections("learner_rejected_messages_total")
            )
            return
        self._control.keep_up(self._feed)
        batch = self._feed.next(WAIT_S)
        if batch is not None:
            priority = self._rng.exponential(size=len(batch.key)).astype(np.float32)
            self._feed.done(batch, priority)
            self._batches += 1
            self._all_batches += 1

    def _read(self) -> HeadReading:
        memory = psutil.Process().memory_info()
        return HeadReading(
            time.perf_counter(),
            _cpu_by_thread(),
            memory.rss,
            memory.shared,
            self._due(),
            self._batches,
            self._all_batches,
            dict(self._versions),
            0 if self._feed is None else self._feed.overwritten,
        )


def _cpu_by_thread() -> dict[str, float]:
    """Seconds. ZeroMQ's threads are those that Python does not know of; `feed` is the consumer and
    what it is fed by."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    kinds = {"prefetch": "feed", "MainThread": "feed"}
    found = dict.fromkeys(("control", "feed", "zeromq"), 0.0)
    for thread in psutil.Process().threads():
        name = names.get(thread.id)
        kind = "zeromq" if name is None else kinds.get(name, "control")
        found[kind] += thread.user_time + thread.system_time
    return found
