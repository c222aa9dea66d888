"""Versions of the online network, as the head broadcasts them."""

import numpy as np
import torch
from torch import nn

from common.messages import NamedTensors


def snapshot(network: nn.Module, dtype: str = "float32") -> NamedTensors:
    """A copy of the network's tensors in host memory, as `dtype` (float32 or float16)."""
    with torch.no_grad():
        return {
            name: tensor.detach().cpu().numpy().astype(np.dtype(dtype), copy=True)
            for name, tensor in network.state_dict().items()
        }
