"""What an environment looks like, as plain data and back."""

from typing import Any

import numpy as np
import pytest

from common.errors import MalformedMessage
from common.spec import EnvSpec

PLAIN = {"obs_shape": [84, 84, 4], "obs_dtype": "|u1", "num_actions": 6}


@pytest.mark.parametrize(
    ("spec", "plain", "obs_size"),
    [
        (EnvSpec((84, 84, 4), "|u1", 6), PLAIN, 28_224),
        (EnvSpec((4,), "<f4", 2), {"obs_shape": [4], "obs_dtype": "<f4", "num_actions": 2}, 4),
        # A single number.
        (EnvSpec((), "<i8", 1), {"obs_shape": [], "obs_dtype": "<i8", "num_actions": 1}, 1),
    ],
)
def test_it_is_the_same_after_a_round_trip(
    spec: EnvSpec, plain: dict[str, Any], obs_size: int
) -> None:
    assert spec.to_plain() == plain
    assert EnvSpec.from_plain(plain) == spec
    assert spec.obs_size == obs_size
    assert spec.obs_bytes == np.empty(spec.obs_shape, spec.obs_dtype).nbytes
    assert spec.dtype == np.dtype(plain["obs_dtype"])


@pytest.mark.parametrize(
    "changes",
    [
        {"obs_shape": None},
        {"obs_shape": 4},
        {"obs_shape": "44"},
        {"obs_shape": ["a"]},
        {"obs_shape": [[4]]},
        {"obs_shape": [4, 0]},
        {"obs_shape": [-1]},
        {"obs_shape": [1.5]},
        {"obs_shape": [float("nan")]},
        {"obs_shape": [float("inf")]},
        {"obs_dtype": None},
        {"obs_dtype": "O"},
        {"obs_dtype": "<M8[s]"},
        {"obs_dtype": ">f4"},
        {"obs_dtype": "float32"},
        {"num_actions": None},
        {"num_actions": 0},
        {"num_actions": -2},
        {"num_actions": "many"},
        {"num_actions": 2.5},
        {"num_actions": float("inf")},
    ],
    ids=str,
)
def test_an_impossible_one_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage, match="environment spec"):
        EnvSpec.from_plain({**PLAIN, **changes})


@pytest.mark.parametrize("missing", PLAIN)
def test_an_incomplete_one_is_refused(missing: str) -> None:
    with pytest.raises(MalformedMessage, match="not an environment spec"):
        EnvSpec.from_plain({key: value for key, value in PLAIN.items() if key != missing})
