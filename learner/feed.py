"""Keeps batches ready while the learner trains: in a thread of its own, or in between.

A thread overlaps gathering, decompressing and copying to a GPU with the update. But whenever it
runs, it takes the interpreter from the thread that trains, and each handing over costs more than
all that is to be done for a small batch: on a CPU the training thread fetches those itself.
"""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import zmq

from common import transport
from common.device import use_device
from common.manifest import Manifest
from common.messages import Serving
from common.rejections import Rejections
from common.trace import NO_TRACE, Trace
from learner.batches import Batches, Used
from learner.shards import ShardedBatches
from learner.update import TrainBatch
from learner.wakeup import Wakeup

T = TypeVar("T")
POLL_MS = 100
INLINE_BYTES = 1 << 20
"""Frames of a batch that a CPU's training thread fetches itself."""


class Feed(Protocol):
    """`next` and `done` in turn; `close` at the end."""

    @property
    def overwritten(self) -> int:
        """See `Batches.overwritten`."""

    def next(self, timeout_s: float) -> TrainBatch | None:
        """The next batch, or None when none came in time. Raises what ended it."""

    def done(self, batch: TrainBatch, priority: npt.NDArray[np.float32]) -> None:
        """A batch is used up; |δ| [N] are its new priorities."""

    def follow(self, servers: Mapping[int, Serving]) -> None:
        """These are the replay servers now, by number."""

    def close(self) -> None: ...


def open_feed(
    context: zmq.Context[zmq.Socket[bytes]],
    servers: Mapping[int, Serving],
    manifest: Manifest,
    device: torch.device,
    trace: Trace = NO_TRACE,
    thread_trace: Trace = NO_TRACE,
    rejections: Rejections | None = None,
) -> Feed:
    """The feed that suits the device and the size of a batch.

    Args:
        servers: the replay servers that are there, by number.
        trace: of the loop that trains.
        thread_trace: of the feed's own thread, if it gets one.
        rejections: as of `Batches`.
    """
    frames = manifest.config.batch_size * manifest.layout.frames_per_transition
    nbytes = frames * manifest.spec.obs_bytes
    inline = device.type == "cpu" and nbytes <= INLINE_BYTES
    source: Batches | ShardedBatches
    used_trace = trace if inline else thread_trace
    if manifest.config.replay_servers == 1:
        (server,) = servers.values()
        source = Batches(context, server, manifest, device, used_trace, rejections)
    else:
        source = ShardedBatches(context, servers, manifest, device, used_trace, rejections)
    if inline:
        return InlineFeed(source, trace)
    return Prefetcher(source, context, thread_trace, device)


class InlineFeed:
    """In the training thread. What was requested is made by the replay server meanwhile.

    Priorities go home for half of the credit at once: a message costs more than what is in it.
    """

    def __init__(self, batches: Batches | ShardedBatches, trace: Trace = NO_TRACE) -> None:
        self._batches, self._trace = batches, trace
        self._ready: deque[TrainBatch] = deque()
        self._used: list[Used] = []
        self._failure: BaseException | None = None

    @property
    def overwritten(self) -> int:
        return self._batches.overwritten

    def next(self, timeout_s: float) -> TrainBatch | None:
        if self._failure is not None:
            raise self._failure
        if not self._ready:
            try:
                self._fetch(timeout_s)
            except BaseException as error:
                self._failure = error
                raise
        return self._ready.popleft() if self._ready else None

    def _fetch(self, timeout_s: float) -> None:
        self._ready += self._batches.receive()
        if not self._ready:
            self._give_back()
        deadline_s = time.monotonic() + timeout_s
        while not self._ready and (left_s := deadline_s - time.monotonic()) > 0.0:
            self._trace.phase("waiting for a batch")
            patience_s = min(left_s, self._batches.patience_s)
            transport.wait_any(self._batches.sockets, max(round(patience_s * 1e3), 1))
            self._ready += self._batches.receive()

    def follow(self, servers: Mapping[int, Serving]) -> None:
        self._batches.follow(servers)

    def done(self, batch: TrainBatch, priority: npt.NDArray[np.float32]) -> None:
        self._used.append(Used(batch.slot, batch.key, priority))
        if len(self._used) >= self._batches.credit // 2:
            self._give_back()

    def _give_back(self) -> None:
        used, self._used = self._used, []
        self._batches.give_back(used)

    def close(self) -> None:
        self._batches.close()


class Prefetcher:
    """One thread with one socket. It is woken for half of the credit at once, to disturb less.

    Args:
        device: that batches are copied to.
    """

    def __init__(
        self,
        batches: Batches | ShardedBatches,
        context: zmq.Context[zmq.Socket[bytes]],
        trace: Trace = NO_TRACE,
        device: torch.device | None = None,
    ) -> None:
        self._batches, self._trace, self._device = batches, trace, device
        self._ready: queue.SimpleQueue[TrainBatch] = queue.SimpleQueue()
        self._used: queue.SimpleQueue[Used] = queue.SimpleQueue()
        self._servers: queue.SimpleQueue[Mapping[int, Serving]] = queue.SimpleQueue()
        self._wakeup = Wakeup(context)
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    @property
    def overwritten(self) -> int:
        return self._batches.overwritten

    def next(self, timeout_s: float) -> TrainBatch | None:
        if self._failure is not None:
            raise self._failure
        if self._ready.empty() and not self._used.empty():
            self._wakeup.signal()
        try:
            return self._ready.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def done(self, batch: TrainBatch, priority: npt.NDArray[np.float32]) -> None:
        self._used.put(Used(batch.slot, batch.key, priority))
        if self._used.qsize() >= self._batches.credit // 2:
            self._wakeup.signal()

    def follow(self, servers: Mapping[int, Serving]) -> None:
        self._servers.put(servers)
        self._wakeup.signal()

    def close(self) -> None:
        self._stopping.set()
        self._wakeup.signal()
        self._thread.join()
        self._batches.close()
        self._wakeup.close()

    def _run(self) -> None:
        try:
            if self._device is not None:
                use_device(self._device)
            self._serve()
        except BaseException as error:
            self._failure = error
        finally:
            self._trace.close()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._trace.phase("waiting")
            patience_ms = max(round(self._batches.patience_s * 1e3), 1)
            transport.wait_any(
                [*self._batches.sockets, self._wakeup.woken], min(patience_ms, POLL_MS)
            )
            self._wakeup.clear()
            self._trace.phase("priorities")
            for servers in _taken(self._servers):
                self._batches.follow(servers)
            self._batches.give_back(_taken(self._used))
            for batch in self._batches.receive():
                self._ready.put(batch)


def _taken(waiting: "queue.SimpleQueue[T]") -> list[T]:
    """All that is in the queue now."""
    taken: list[T] = []
    with contextlib.suppress(queue.Empty):
        while True:
            taken.append(waiting.get_nowait())
    return taken
