"""Keeps batches ready on the device while the learner trains, and returns priorities.

One thread with one socket. It owes the replay server's credit: at any time `batches` batches are
requested, ready, or in training; each request for another carries the priorities of the one that
was used up.
"""

import logging
import queue
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zmq
from torch import Tensor

from common import transport
from common.errors import MalformedMessage, WireError
from common.manifest import Manifest
from common.messages import Batch, Message, Rejected, SampleRequest
from learner.losses import importance_weights
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


class _Slot:
    """Host memory for one batch, page-locked when it is copied to a GPU."""

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        n, spec = manifest.config.batch_size, manifest.spec
        pinned = device.type == "cuda"
        obs_dtype = torch.from_numpy(np.empty(0, spec.dtype)).dtype
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "obs": ((n, *spec.obs_shape), obs_dtype),
            "next_obs": ((n, *spec.obs_shape), obs_dtype),
            "action": ((n,), torch.int64),
            "n_step_return": ((n,), torch.float32),
            "discount": ((n,), torch.float32),
            "weight": ((n,), torch.float32),
        }
        self.host = {
            name: torch.empty(shape, dtype=dtype, pin_memory=pinned)
            for name, (shape, dtype) in shapes.items()
        }
        self.views = {name: tensor.numpy() for name, tensor in self.host.items()}


class Prefetcher:
    """Start, then `next` and `done` in turn; `close` at the end."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        manifest: Manifest,
        device: torch.device,
    ) -> None:
        self._manifest = manifest
        self._device = device
        self._credit = manifest.config.prefetch_batches
        self._context = context
        self._endpoint = endpoint
        self._slots = [_Slot(manifest, device) for _ in range(self._credit)]
        self._free = list(range(len(self._slots)))
        self._ready: queue.SimpleQueue[TrainBatch] = queue.SimpleQueue()
        self._used: queue.SimpleQueue[_Used] = queue.SimpleQueue()
        self._requested = 0
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._wakeup = Wakeup(context)
        self._stopping = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> TrainBatch | None:
        """The next batch, or None when none came in time. Raises what ended the thread."""
        if self.failure is not None:
            raise self.failure
        try:
            return self._ready.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def done(self, batch: TrainBatch, priority: npt.NDArray[np.float32]) -> None:
        """A batch is used up; |δ| [N] are its new priorities."""
        self._used.put(_Used(batch.slot, batch.key, priority))
        self._wakeup.signal()

    def close(self) -> None:
        self._stopping.set()
        self._wakeup.signal()
        self._thread.join()
        self._wakeup.close()

    def _run(self) -> None:
        try:
            socket, watch = transport.connect_watched(self._context, zmq.DEALER, self._endpoint)
            try:
                self._serve(socket, watch)
            finally:
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
            poller.poll(POLL_MS)
            self._wakeup.clear()
            if watch.reconnected():
                # What was requested on the old connection will not come.
                lost, self._requested = self._requested, 0
                self._request(socket, lost)
            self._return_priorities(socket)
            while (message := transport.receive(socket)) is not None:
                self._take(message)

    def _request(self, socket: zmq.Socket[bytes], batches: int) -> None:
        self._requested += batches
        transport.send(socket, SampleRequest(batches))

    def _return_priorities(self, socket: zmq.Socket[bytes]) -> None:
        while True:
            try:
                used = self._used.get_nowait()
            except queue.Empty:
                return
            self._free.append(used.slot)
            self._requested += 1
            if self._manifest.config.prioritized:
                transport.send(socket, SampleRequest(1, used.key, used.priority))
            else:
                transport.send(socket, SampleRequest(1))

    def _take(self, message: Message) -> None:
        if isinstance(message, Rejected):
            raise WireError(f"the replay server rejected a request: {message.reason}")
        if not isinstance(message, Batch) or not self._free:
            log.warning("ignored a %s that was not asked for", message.kind)
            return
        self._check(message)
        self._requested -= 1
        slot = self._free.pop()
        self._ready.put(self._stage(message, slot))

    def _check(self, batch: Batch) -> None:
        config, spec = self._manifest.config, self._manifest.spec
        n = config.batch_size
        for name in ("obs", "next_obs"):
            array: npt.NDArray[Any] = getattr(batch, name)
            if array.shape != (n, *spec.obs_shape) or array.dtype != spec.dtype:
                raise MalformedMessage(f"batch.{name} is {array.dtype} {array.shape}")
        for name in ("action", "n_step_return", "discount", "probability", "key"):
            if getattr(batch, name).shape != (n,):
                raise MalformedMessage(f"batch.{name} has shape {getattr(batch, name).shape}")
        if batch.action.min() < 0 or batch.action.max() >= spec.num_actions:
            raise MalformedMessage(f"batch.action is not in 0 … {spec.num_actions - 1}")
        if not (batch.probability.min() > 0.0 and np.isfinite(batch.probability.max())):
            raise MalformedMessage("batch.probability is not positive and finite")
        if batch.table_size < 1:
            raise MalformedMessage(f"batch.table_size is {batch.table_size}")

    def _stage(self, batch: Batch, slot: int) -> TrainBatch:
        views = self._slots[slot].views
        for name in ("obs", "next_obs", "action", "n_step_return", "discount"):
            np.copyto(views[name], getattr(batch, name))
        if self._manifest.config.prioritized:
            exponent = self._manifest.config.importance_sampling_exponent
            views["weight"][:] = importance_weights(batch.probability, batch.table_size, exponent)
        else:
            views["weight"].fill(1.0)
        tensors = self._to_device(self._slots[slot].host)
        return TrainBatch(
            **tensors,
            key=batch.key,
            table_size=batch.table_size,
            inserted=batch.inserted,
            sampled=batch.sampled,
            mean_version=batch.mean_version,
            slot=slot,
        )

    def _to_device(self, host: dict[str, Tensor]) -> dict[str, Tensor]:
        if self._device.type == "cpu":
            return host
        if self._stream is None:
            return {name: tensor.to(self._device) for name, tensor in host.items()}
        with torch.cuda.stream(self._stream):
            tensors = {n: t.to(self._device, non_blocking=True) for n, t in host.items()}
        for tensor in tensors.values():
            # Allocated on this stream, used and freed on the learner's: without this their memory
            # could be handed out again while the learner still reads it.
            tensor.record_stream(torch.cuda.default_stream(self._device))
        # The batch is ready when it is handed over; the learner's own stream runs on meanwhile.
        self._stream.synchronize()
        return tensors
