"""The device of the configuration, and what is computed there in which numbers."""

import pytest
import torch

from common.config import Config
from common.errors import ConfigError
from learner import device as device_module
from learner.device import autocast_dtype, choose_device, memory_format
from tests.updates import SPECS, make_config, make_learner

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


def test_an_automatic_device_can_be_used() -> None:
    assert torch.ones(2, device=choose_device(Config())).sum().item() == 2.0


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "cpu or so"])
def test_a_device_that_is_not_there_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(ConfigError, match=r"choose auto, cpu, cuda or mps") as caught:
        choose_device(Config(device=name))
    assert f"device = {name!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "refusal"),
    [
        ({"cuda_graph": True}, "cuda_graph = true needs device = cuda, not cpu"),
        ({"autocast": "float16"}, "autocast = float16 needs device = cuda, not cpu: choose"),
    ],
)
def test_what_an_automatic_device_cannot_do_is_refused(
    option: dict[str, object], refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is named is refused with the configuration already."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=refusal):
        choose_device(Config.model_validate(option))


@pytest.mark.parametrize("network", SPECS)
@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ({"sse2", "avx512f", "avx512_bf16"}, True),
        ({"avx512f", "amx_bf16", "amx_tile"}, True),
        ({"fp", "asimd", "bf16"}, True),
        ({"sse2", "avx2", "avx512f"}, False),
        (set(), False),
    ],
)
def test_automatic_autocast_is_for_convolutions_where_the_cpu_has_bfloat16(
    network: str, flags: set[str], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "_cpu_flags", lambda: flags)
    config = make_config(network, batch_size=2)
    expected = torch.bfloat16 if native and network != "mlp" else None
    assert autocast_dtype(config, make_learner(config).online, CPU) == expected


def test_automatic_autocast_leaves_a_network_of_the_users_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_module, "_cpu_flags", lambda: {"avx512_bf16"})
    assert autocast_dtype(Config(), torch.nn.Conv2d(1, 2, 3), CPU) is None
    asked = Config.model_validate({"autocast": "bfloat16"})
    assert autocast_dtype(asked, torch.nn.Conv2d(1, 2, 3), CPU) == torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), None), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_automatic_autocast_needs_a_gpu_with_bfloat16(
    capability: tuple[int, int], expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    config = make_config("minatar", batch_size=2)
    assert autocast_dtype(config, make_learner(config).online, CUDA) == expected


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [
        ("auto", CPU, torch.contiguous_format),
        ("auto", MPS, torch.contiguous_format),
        ("auto", CUDA, torch.channels_last),
        ("contiguous", CUDA, torch.contiguous_format),
        ("channels_last", CPU, torch.channels_last),
    ],
)
def test_the_memory_format_is_the_one_asked_for_or_the_devices(
    asked: str, device: torch.device, expected: torch.memory_format
) -> None:
    network = make_learner(make_config("minatar", batch_size=2)).online
    config = Config.model_validate({"memory_format": asked})
    assert memory_format(config, network, device) == expected


def test_an_automatic_memory_format_leaves_a_network_of_the_users_alone() -> None:
    """`view` of what convolutions give, which is in many a network, needs it contiguous."""
    network = torch.nn.Conv2d(1, 2, 3)
    assert memory_format(Config(), network, CUDA) == torch.contiguous_format
    asked = Config.model_validate({"memory_format": "channels_last"})
    assert memory_format(asked, network, CUDA) == torch.channels_last
