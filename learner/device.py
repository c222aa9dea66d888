"""Where the learner computes, in which numbers and in which memory format."""

import functools
from pathlib import Path

import torch
from torch import nn

from common.config import Config
from common.device import find_device
from common.errors import ConfigError
from common.networks import ConvQNetwork

_NATIVE_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of CPUs that multiply in bfloat16: x86's, x86's, Arm's. Others emulate it, slowly."""


def choose_device(config: Config) -> torch.device:
    """The device of the configuration; `auto` takes cuda, else mps, else cpu.

    Raises ConfigError when it is not there, or cannot do what else the configuration asks for.
    """
    device = find_device(config.device, "device")
    reason = config.unfit_for(device.type)
    if reason is not None:
        raise ConfigError(reason)
    return device


def autocast_dtype(config: Config, network: nn.Module, device: torch.device) -> torch.dtype | None:
    """What the network's products are computed in, under autocast; None: in float32.

    `auto` takes bfloat16 for networks of convolutions where the device multiplies in it by itself:
    small products gain less than their conversions cost. A network of the user's may not keep its
    Q-values in float32, as ours do.
    """
    if config.autocast == "auto":
        pays = isinstance(network, ConvQNetwork) and _multiplies_bfloat16(device)
        return torch.bfloat16 if pays else None
    return {"off": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[config.autocast]


def memory_format(config: Config, network: nn.Module, device: torch.device) -> torch.memory_format:
    """How images and convolutions lie in memory.

    `auto`: as the device's own kernels have them. A network of the user's may flatten what its
    convolutions give with `view`, which needs them contiguous.
    """
    if config.memory_format == "auto":
        pays = isinstance(network, ConvQNetwork) and device.type == "cuda"
        return torch.channels_last if pays else torch.contiguous_format
    return {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[
        config.memory_format
    ]


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and not _NATIVE_BFLOAT16.isdisjoint(_cpu_flags())


@functools.cache
def _cpu_flags() -> frozenset[str]:
    """Empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, "").split())
