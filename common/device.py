"""Devices by name."""

import torch

from common.errors import ConfigError


def find_device(name: str, option: str) -> torch.device:
    """The device of that name; `auto` takes cuda, else mps, else cpu.

    Args:
        option: of the configuration, that the name stands for.

    Raises ConfigError when it is not there, or does not let itself be used.
    """
    what, advice = f"{option} = {name!r}", "choose auto, cpu, cuda or mps"
    if name == "auto":
        name = _best()
        what, advice = f"{option} = 'auto' takes {name}, which", "free it, or choose cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{what} cannot be used here ({reason}): {advice}") from error
    return device


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def use_device(device: torch.device) -> None:
    """Make a GPU with a number this thread's current one. A thread's current device is the first
    GPU otherwise, and to leave a stream's context makes that one current again: some hundred MiB
    of a GPU that others use, or an error if it is theirs alone."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
