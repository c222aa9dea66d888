"""Snapshots of a network: every tensor, by its name, as it was then."""

import numpy as np
import pytest
import torch
from torch import nn

from common.networks import set_memory_format
from learner.weights import Snapshot
from tests.updates import make_batch, make_config, make_learner


class _EveryKind(nn.Module):
    """Tensors of all sizes of numbers, so that they have to be put in order to be aligned."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(3))
        self.flags = nn.Buffer(torch.tensor([True, False, True]))
        self.conv = nn.Conv2d(2, 3, 2)
        self.norm = nn.BatchNorm1d(5)  # Counts its batches in an int64.
        self.scalar = nn.Parameter(torch.tensor(2.5))
        self.nothing = nn.Buffer(torch.empty(0, 4))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_snapshot_holds_every_tensor_by_name(
    dtype: str, memory_format: torch.memory_format
) -> None:
    network = _EveryKind()
    set_memory_format(network, memory_format)
    found = Snapshot(network, dtype).tensors()
    state = network.state_dict()
    assert list(found) == list(state)
    for name, tensor in state.items():
        expected = tensor.numpy()
        if tensor.is_floating_point():
            expected = expected.astype(dtype)
        assert found[name].dtype == expected.dtype, name
        assert found[name].flags.c_contiguous, name
        assert found[name].flags.aligned, name
        np.testing.assert_array_equal(found[name], expected, name)


def test_a_snapshot_does_not_change_when_training_goes_on() -> None:
    config = make_config("mlp", batch_size=8)
    learner = make_learner(config)
    before = {name: t.clone() for name, t in learner.online.state_dict().items()}
    snapshot = learner.snapshot()
    learner.update(make_batch(config, 0))
    for name, array in snapshot.tensors().items():
        np.testing.assert_array_equal(array, before[name].numpy())
