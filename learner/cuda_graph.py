"""A whole update as one CUDA graph: the host starts it with one call instead of hundreds."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from common.errors import ConfigError

WARM_UP = 3
"""Calls before the capture: optimiser state, compiled kernels, and the workspaces of cuDNN and
cuBLAS must be there already."""

Step = Callable[..., Tensor]


class Recorder(Protocol):
    """How work is put on record; `CudaRecorder` but for tests on machines without a GPU."""

    def warm_up(self, step: Step, *inputs: Tensor) -> Tensor:
        """Run the step where it will be recorded."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record the work without doing it; returns what does it, again and again, and the tensor
        that holds the result then."""


class GraphedStep:
    """Calls `step` as it is at first, then records it, and from then on replays the record.

    A replay reads and writes the addresses that were recorded. So inputs are copied into tensors
    that stay (on the device: some µs), and whatever else `step` touches must stay where it is:
    weights, moments, gradients. What is changed in place, such as a target network that is copied
    into, the next replay sees; after anything was replaced, call `forget`.

    `step` must not wait for the device, nor branch on what was computed there.
    """

    def __init__(self, step: Step, recorder: Recorder) -> None:
        self._step = step
        self._recorder = recorder
        self.forget()

    def forget(self) -> None:
        """The next calls warm up and record anew."""
        self._calls = 0
        self._inputs: tuple[Tensor, ...] = ()
        self._record: tuple[Callable[[], None], Tensor] | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The step's result, which the next call overwrites."""
        if self._calls < WARM_UP:
            self._calls += 1
            return self._recorder.warm_up(self._step, *inputs)
        if self._record is None:
            self._inputs = tuple(tensor.clone() for tensor in inputs)
            self._record = self._recorder.record(lambda: self._step(*self._inputs))
        else:
            torch._foreach_copy_(self._inputs, inputs)
        replay, result = self._record
        replay()
        return result


class CudaRecorder:
    """CUDA's stream capture (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Capture is not possible on the default stream, and autograd runs a backward on the stream
        # of its forward: the warm-up leaves nothing behind that belongs to another stream.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def warm_up(self, step: Step, *inputs: Tensor) -> Tensor:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = step(*inputs)
        # Both waits together let either stream reuse memory that the other one used.
        current.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Raises ConfigError where the work cannot be recorded: a network may wait for the GPU."""
        graph = torch.cuda.CUDAGraph()
        failure: Exception | None = None
        try:
            # Other threads go on with their own CUDA calls (the feed copies batches): only this
            # thread's may break the capture.
            with (
                _no_collection(),
                torch.cuda.device(self._device),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                try:
                    result = work()
                except Exception as error:
                    failure = error
                    raise
        except Exception as error:
            # The end of a capture that has failed fails, too, and knows less of why.
            failure = failure or error
            if isinstance(failure, torch.OutOfMemoryError):
                raise failure from None
            reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
            raise ConfigError(
                f"cuda_graph = true: the update of this network cannot be recorded ({reason}): "
                "choose cuda_graph = false"
            ) from failure
        return graph.replay, result


@contextmanager
def _no_collection() -> Iterator[None]:
    """An older graph that Python's collector destroys during a capture makes that one invalid."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
