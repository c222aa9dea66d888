"""Keeps batches ready on the device while the learner trains, and returns priorities.

One thread with one socket. It owes the replay server's credit: at any time `prefetch_batches`
batches are requested, ready, or in training; a request for others carries the priorities of those
that were used up. It is woken for half of the credit at once: whenever it runs, it takes the
interpreter from the thread that trains.
"""

import contextlib
import logging
import queue
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import zmq

from common import transport
from common.errors import WireError
from common.manifest import Manifest
from common.messages import Batch, Drawn, Message, Rejected, SampleRequest, Serving
from common.trace import NO_TRACE, Trace
from learner.host_batch import HostBatch
from learner.mapped_replay import map_storage
from learner.transfer import Transfer
from learner.update import TrainBatch
from learner.wakeup import Wakeup

POLL_MS = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Used:
    """A batch that was trained on: its buffer is free, its priorities go home."""

    slot: int
    key: npt.NDArray[np.int64]
    priority: npt.NDArray[np.float32]


class Prefetcher:
    """Start, then `next` and `done` in turn; `close` at the end."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        server: Serving,
        manifest: Manifest,
        device: torch.device,
        trace: Trace = NO_TRACE,
    ) -> None:
        self._trace = trace
        self._manifest = manifest
        self._credit = manifest.config.prefetch_batches
        self._context = context
        self._endpoint = server.endpoint
        self._mapped = map_storage(server, manifest)
        self.overwritten = 0
        """Transitions that were evicted between being drawn and being read: another of their batch
        stood in for each, or where none was left, the batch was drawn again."""
        self._slots = [HostBatch(manifest, device) for _ in range(self._credit)]
        self._transfer = Transfer(self._slots, device)
        self._free = list(range(len(self._slots)))
        self._ready: queue.SimpleQueue[TrainBatch] = queue.SimpleQueue()
        self._used: queue.SimpleQueue[_Used] = queue.SimpleQueue()
        self._requested = 0
        self._wakeup = Wakeup(context)
        self._stopping = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> TrainBatch | None:
        """The next batch, or None when none came in time. Raises what ended the thread."""
        if self.failure is not None:
            raise self.failure
        if self._ready.empty() and not self._used.empty():
            self._wakeup.signal()
        try:
            return self._ready.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def done(self, batch: TrainBatch, priority: npt.NDArray[np.float32]) -> None:
        """A batch is used up; |δ| [N] are its new priorities."""
        self._used.put(_Used(batch.slot, batch.key, priority))
        if self._used.qsize() >= self._credit // 2:
            self._wakeup.signal()

    def close(self) -> None:
        self._stopping.set()
        self._wakeup.signal()
        self._thread.join()
        self._transfer.finish()
        self._wakeup.close()

    def _run(self) -> None:
        try:
            socket, watch = transport.connect_watched(self._context, zmq.DEALER, self._endpoint)
            try:
                self._serve(socket, watch)
            finally:
                self._trace.close()
                watch.close()
                socket.close()
        except BaseException as error:
            self.failure = error

    def _serve(self, socket: zmq.Socket[bytes], watch: transport.ReconnectWatch) -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._wakeup.woken, zmq.POLLIN)
        self._request(socket, self._credit)
        while not self._stopping.is_set():
            self._trace.phase("waiting")
            poller.poll(POLL_MS)
            self._trace.phase("priorities")
            self._wakeup.clear()
            if watch.reconnected():
                # What was requested on the old connection will not come.
                lost, self._requested = self._requested, 0
                self._request(socket, lost)
            self._return_priorities(socket)
            self._trace.phase("receiving")
            while (message := transport.receive(socket)) is not None:
                self._trace.phase("gathering")
                self._take(socket, message)
                self._trace.phase("receiving")

    def _request(self, socket: zmq.Socket[bytes], batches: int) -> None:
        self._requested += batches
        transport.send(socket, SampleRequest(batches, keys_only=self._mapped is not None))

    def _return_priorities(self, socket: zmq.Socket[bytes]) -> None:
        keys_only = self._mapped is not None
        used: list[_Used] = []
        with contextlib.suppress(queue.Empty):
            while True:
                used.append(self._used.get_nowait())
        if not used:
            return
        self._free += [u.slot for u in used]
        self._requested += len(used)
        if self._manifest.config.prioritized:
            key = np.concatenate([u.key for u in used])
            priority = np.concatenate([u.priority for u in used])
            request = SampleRequest(len(used), key, priority, keys_only)
        else:
            request = SampleRequest(len(used), keys_only=keys_only)
        transport.send(socket, request)

    def _take(self, socket: zmq.Socket[bytes], message: Message) -> None:
        if isinstance(message, Rejected):
            raise WireError(f"the replay server rejected a request: {message.reason}")
        if not isinstance(message, (Batch, Drawn)) or not self._free:
            log.warning("ignored a %s that was not asked for", message.kind)
            return
        self._requested -= 1
        slot = self._free.pop()
        host = self._slots[slot]
        if isinstance(message, Batch):
            key = host.fill_from_batch(message)
            mean_version = message.mean_version
        else:
            read = self._read(host, message)
            if read is None:
                self._free.append(slot)
                self._request(socket, 1)
                return
            key, mean_version = read
        self._trace.phase("copying to the device")
        tensors, copied = self._transfer.start(slot)
        self._ready.put(
            TrainBatch(
                **tensors,
                key=key,
                table_size=message.table_size,
                inserted=message.inserted,
                sampled=message.sampled,
                mean_version=mean_version,
                slot=slot,
                copied=copied,
            )
        )

    def _read(self, host: HostBatch, drawn: Drawn) -> tuple[npt.NDArray[np.int64], float] | None:
        """Gather what was drawn; None where that is not possible (any more)."""
        if self._mapped is None:
            return None
        if not self._mapped.holds(drawn):
            log.warning("the replay server has another storage now: batches come over the wire")
            self._mapped = None
            return None
        read = self._mapped.read(host, drawn)
        if read is None:
            self.overwritten += len(drawn.key)
            return None
        self.overwritten += read.overwritten
        return read.key, read.mean_version
