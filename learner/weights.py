"""Versions of the online network, as the head broadcasts them."""

import math
from typing import Any

import torch
from torch import nn

from common.messages import NamedTensors


class Snapshot:
    """A network's tensors at one moment, on their way to the host.

    They are put together on the device and cross in one copy. With a stream for the copy (CUDA),
    the next updates are not held up by it, nor is the host before it asks for the `tensors`.

    Args:
        dtype: float32 or float16, for the tensors of real numbers; counters stay as they are.
    """

    def __init__(
        self,
        network: nn.Module,
        dtype: str = "float32",
        stream: "torch.cuda.Stream | None" = None,
    ) -> None:
        real = getattr(torch, dtype)
        parts = {
            name: tensor.to(real) if tensor.is_floating_point() else tensor
            for name, tensor in network.state_dict().items()
        }
        # Larger numbers first, so that every tensor begins at a multiple of its numbers' size.
        self._layout = [
            (name, tuple(part.shape), torch.empty(0, dtype=part.dtype).numpy().dtype)
            for name, part in sorted(parts.items(), key=lambda item: -item[1].itemsize)
        ]
        self._packed = torch.cat(
            [parts[name].contiguous().view(-1).view(torch.uint8) for name, _, _ in self._layout]
        )
        self._names = list(parts)
        self._copied: torch.cuda.Event | None = None
        if stream is not None:
            self._copied = self._start_copy(stream)

    def _start_copy(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        device = self._packed.device
        host = torch.empty(self._packed.shape, dtype=torch.uint8, pin_memory=True)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            host.copy_(self._packed, non_blocking=True)
        # The memory on the device comes from the learner's stream: not to be used again before.
        self._packed.record_stream(stream)
        self._packed = host
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(stream)
        return copied

    def tensors(self) -> NamedTensors:
        """By name, in the network's order; waits for the copy."""
        if self._copied is not None:
            self._copied.synchronize()
        packed = self._packed.cpu().numpy()
        found: dict[str, Any] = {}
        offset = 0
        for name, shape, dtype in self._layout:
            end = offset + math.prod(shape) * dtype.itemsize
            found[name] = packed[offset:end].view(dtype).reshape(shape)
            offset = end
        return {name: found[name] for name in self._names}
