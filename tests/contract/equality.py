"""When two messages are the same: arrays bit by bit, so that NaN is NaN and −0 is not 0."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from common.messages import Message


def assert_same(received: Message, sent: Message) -> None:
    assert type(received) is type(sent)
    for field in dataclasses.fields(sent):  # type: ignore[arg-type]
        there, here = getattr(received, field.name), getattr(sent, field.name)
        assert type(there) is type(here), field.name
        if isinstance(here, np.ndarray):
            _assert_same_array(there, here)
        elif field.name in ("tensors", "histograms"):
            assert list(there) == list(here)
            for name in here:
                _assert_same_array(there[name], here[name])
        else:
            assert there == here, field.name


def _assert_same_array(there: npt.NDArray[Any], here: npt.NDArray[Any]) -> None:
    assert (there.dtype, there.shape) == (here.dtype, here.shape)
    assert there.tobytes() == here.tobytes()
