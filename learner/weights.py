"""Versions of the online network, as the head broadcasts them."""

from typing import Any

from torch import Tensor, nn

from common.messages import NamedTensors


def snapshot(network: nn.Module, dtype: str = "float32") -> NamedTensors:
    """A copy of the network's tensors in host memory; those of real numbers as `dtype` (float32 or
    float16), counters as they are."""

    def copied(tensor: Tensor) -> Any:
        array = tensor.cpu().numpy()
        return array.astype(dtype if tensor.is_floating_point() else array.dtype, copy=True)

    return {name: copied(tensor) for name, tensor in network.state_dict().items()}
