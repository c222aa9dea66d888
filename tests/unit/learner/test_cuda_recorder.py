"""What a recorder sees to around CUDA's capture, which stands in for itself here."""

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import ConfigError
from learner.cuda_graph import CudaRecorder


class Capture:
    """In the place of `torch.cuda.graph`; where work has failed, its end fails, too."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[Exception] | None, *_: object) -> None:
        if kind is not None:
            raise RuntimeError("CUDA error: operation failed due to a previous error")


class RefusingCapture(Capture):
    """Whose end fails though the work did not."""

    def __exit__(self, *_: object) -> None:
        raise RuntimeError("CUDA error: unjoined work\nSearch for it.")


class Graph:
    def replay(self) -> None:
        pass


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> CudaRecorder:
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    return CudaRecorder(torch.device("cuda"))


@pytest.fixture(params=[True, False], ids=["collecting", "not collecting"])
def collecting(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether Python's collector runs before."""
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_collected_during_a_capture(
    recorder: CudaRecorder, collecting: bool, fails: bool
) -> None:
    during = []

    def work() -> Tensor:
        during.append(gc.isenabled())
        if fails:
            raise RuntimeError("cannot be recorded")
        return torch.zeros(1)

    with pytest.raises(ConfigError) if fails else nullcontext():
        recorder.record(work)
    assert during == [False]
    assert gc.isenabled() == collecting


REFUSAL = "cuda_graph = true: the update of this network cannot be recorded"


def raising(error: Exception) -> Callable[[], Tensor]:
    def work() -> Tensor:
        raise error

    return work


def test_work_that_cannot_be_recorded_is_refused_with_its_own_reason(
    recorder: CudaRecorder,
) -> None:
    error = RuntimeError("CUDA error: operation not permitted when stream is capturing\nSee …")
    with pytest.raises(ConfigError) as caught:
        recorder.record(raising(error))
    reason = "CUDA error: operation not permitted when stream is capturing"
    assert str(caught.value) == f"{REFUSAL} ({reason}): choose cuda_graph = false"
    assert caught.value.__cause__ is error


def test_a_capture_that_fails_at_its_end_is_refused_too(
    recorder: CudaRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "graph", RefusingCapture)
    with pytest.raises(ConfigError) as caught:
        recorder.record(lambda: torch.zeros(1))
    reason = "CUDA error: unjoined work"
    assert str(caught.value) == f"{REFUSAL} ({reason}): choose cuda_graph = false"


def test_memory_that_runs_out_is_no_fault_of_the_option(recorder: CudaRecorder) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        recorder.record(raising(torch.OutOfMemoryError("CUDA out of memory")))
