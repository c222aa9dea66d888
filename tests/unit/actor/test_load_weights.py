"""Weights on their way into a network: all of them or none, counters and flags among them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from actor.policy import Policy
from actor.weights import load_weights
from common import codec
from common.config import Config
from common.errors import MalformedMessage, Reason
from common.manifest import Manifest
from common.messages import NamedTensors, Weights
from common.rejections import Rejections
from common.spec import EnvSpec
from learner.weights import Snapshot
from tests.networks import normalised


def network(seed: int) -> nn.Module:
    """With real numbers, a counter that no float32 can hold, and flags."""
    torch.manual_seed(seed)
    made = normalised((4,), 2)
    made.register_buffer("flags", torch.rand(3) < 0.5)
    made.register_buffer("steps", torch.tensor(2**40 + seed))
    made(torch.randn(8, 4))
    return made


def tensors(seed: int = 0, dtype: str = "float32") -> NamedTensors:
    return Snapshot(network(seed), dtype).tensors()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_snapshot_arrives_as_it_was_whatever_its_tensors_are(dtype: str) -> None:
    sent = Weights(0, 5, tensors(1, dtype))
    received = codec.decode([bytes(frame) for frame in codec.encode(sent)])
    assert isinstance(received, Weights)
    here = network(2)
    load_weights(here, received)
    for name, tensor in here.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), sent.tensors[name], name)
    assert here.get_buffer("2.num_batches_tracked").dtype == torch.int64
    assert here.get_buffer("steps") == 2**40 + 1


@pytest.mark.parametrize(
    ("name", "array", "reason", "line"),
    [
        ("steps", np.array(3, np.int32), Reason.DTYPE, "steps are int32, expected int64"),
        ("steps", np.array(3, np.float32), Reason.DTYPE, "steps are float32, expected int64"),
        ("flags", np.ones(3, np.uint8), Reason.DTYPE, "flags are uint8, expected bool"),
        ("flags", np.ones(2, np.bool_), Reason.SHAPE, r"flags have shape \(2,\), expected \(3,\)"),
        ("1.bias", np.ones(16, np.int64), Reason.DTYPE, "1.bias are int64, expected real numbers"),
        ("1.bias", np.ones(17, np.float32), Reason.SHAPE, r"1.bias have shape \(17,\)"),
        ("1.bias", np.full(16, np.nan), Reason.NON_FINITE, "1.bias are not finite"),
        ("1.bias", np.full(16, 1e39), Reason.NON_FINITE, "1.bias are not finite"),
        ("more", np.ones(1, np.float32), Reason.FIELD, "weights for .*this network has"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    name: str, array: npt.NDArray[Any], reason: Reason, line: str
) -> None:
    here = network(2)
    before = {name: tensor.clone() for name, tensor in here.state_dict().items()}
    with pytest.raises(MalformedMessage, match=line) as caught:
        load_weights(here, Weights(0, 5, {**tensors(), name: array}))
    assert caught.value.reason is reason
    for name, tensor in here.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_weights_that_do_not_fit_are_passed_over_once_there_are_some() -> None:
    config = Config(network="tests.networks:normalised")
    policy = Policy(Manifest("run", config, EnvSpec((4,), "<f4", 2)))
    rejections = Rejections("actor_rejected_messages_total")
    good = Snapshot(normalised((4,), 2)).tensors()
    bad = {**good, "4.bias": np.ones(9, np.float32)}
    # Before that there is nothing to go on with.
    with pytest.raises(MalformedMessage, match=r"do not fit the network here: weights 4\.bias"):
        policy.take(Weights(0, 1, bad), rejections)
    assert policy.take(Weights(0, 2, good), rejections)
    assert not policy.take(Weights(0, 3, bad), rejections)
    assert policy.version == 2
    assert rejections.by_reason[Reason.SHAPE] == rejections.total == 1
