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
