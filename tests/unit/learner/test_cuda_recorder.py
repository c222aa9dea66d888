"""What a recorder sees to around CUDA's capture, which stands in for itself here."""

import gc
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.cuda_graph import CudaRecorder


class Capture:
    """In the place of `torch.cuda.graph`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


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

    with pytest.raises(RuntimeError) if fails else nullcontext():
        recorder.record(work)
    assert during == [False]
    assert gc.isenabled() == collecting
