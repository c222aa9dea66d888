"""Devices by name."""

import torch

from common.errors import ConfigError


def find_device(name: str, option: str) -> torch.device:
    """The device of that name; `auto` takes cuda, else mps, else cpu.

    Args:
        option: of the configuration, that the name stands for.

    Raises ConfigError when it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{option} = {name!r} cannot be used here ({reason}): choose auto, cpu, cuda or mps"
        ) from error
    return device


def use_device(device: torch.device) -> None:
    """Make a GPU with a number this thread's current one. A thread's current device is the first
    GPU otherwise, and to leave a stream's context makes that one current again: some hundred MiB
    of a GPU that others use, or an error if it is theirs alone."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
