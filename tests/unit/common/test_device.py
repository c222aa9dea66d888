"""Devices by name."""

import pytest
import torch

from common.device import find_device, use_device
from common.errors import ConfigError


def test_an_automatic_device_can_be_used() -> None:
    assert torch.ones(2, device=find_device("auto", "device")).sum().item() == 2.0


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "cpu or so"])
def test_a_device_that_is_not_there_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(ConfigError, match=r"choose auto, cpu, cuda or mps") as caught:
        find_device(name, "inference_device")
    assert f"inference_device = {name!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_automatic_gpu_that_others_keep_for_themselves_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def busy(*_: object, device: torch.device) -> None:
        assert device.type == "cuda"
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy\nSearch for it.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", busy)
    with pytest.raises(ConfigError) as caught:
        find_device("auto", "device")
    assert str(caught.value) == (
        "device = 'auto' takes cuda, which cannot be used here (CUDA error: CUDA-capable device(s) "
        "is/are busy): free it, or choose cpu"
    )


@pytest.mark.parametrize(
    ("name", "numbered"), [("cpu", False), ("mps", False), ("cuda", False), ("cuda:1", True)]
)
def test_a_gpu_with_a_number_becomes_this_threads_current_one(
    monkeypatch: pytest.MonkeyPatch, name: str, numbered: bool
) -> None:
    used: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    use_device(torch.device(name))
    assert used == ([torch.device(name)] if numbered else [])
