"""Batches on their way from the host to the device, while the learner trains on another one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.host_batch import HostBatch


class Transfer:
    """Copies to CUDA run on a stream of their own, between buffers that stay: page-locked ones of
    the host, and as many of the device. Nothing waits but the learner's stream, for the event.

    A slot's buffers may be filled again once the learner has read the result of the update that
    used them: by then the device is through with it, and so with the copy before it.
    """

    def __init__(self, hosts: Sequence[HostBatch], device: torch.device) -> None:
        self._hosts = [host.tensors for host in hosts]
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._buffers = [
                {name: torch.empty_like(tensor, device=device) for name, tensor in host.items()}
                for host in self._hosts
            ]
            self._copied = [torch.cuda.Event() for _ in hosts]  # type: ignore[no-untyped-call]
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # The buffers' memory comes from this stream, where something may still use it.
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def start(self, slot: int) -> tuple[dict[str, Tensor], "torch.cuda.Event | None"]:
        """The slot's tensors on the device, and when they are there; None: now."""
        host = self._hosts[slot]
        if self._device.type == "cpu":
            return host, None
        if self._stream is None:
            return {name: tensor.to(self._device) for name, tensor in host.items()}, None
        buffers, copied = self._buffers[slot], self._copied[slot]
        with torch.cuda.stream(self._stream):
            for name, tensor in host.items():
                buffers[name].copy_(tensor, non_blocking=True)
        copied.record(self._stream)
        return buffers, copied

    def finish(self) -> None:
        """Wait for what is under way: only then may the buffers' memory serve others."""
        if self._stream is not None:
            self._stream.synchronize()
