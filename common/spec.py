"""What an environment looks like to the network, the replay and the wire."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.codec import DTYPES
from common.errors import MalformedMessage, Reason


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """One observation is an array of `obs_shape` and `obs_dtype`; actions are 0 … num_actions−1."""

    obs_shape: tuple[int, ...]
    obs_dtype: str
    """As numpy writes it, for example '<f4'."""
    num_actions: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.obs_dtype)

    @property
    def obs_size(self) -> int:
        """Numbers in one observation."""
        return math.prod(self.obs_shape)

    @property
    def obs_bytes(self) -> int:
        """Bytes in one observation."""
        return self.obs_size * self.dtype.itemsize

    def to_plain(self) -> dict[str, Any]:
        return {
            "obs_shape": list(self.obs_shape),
            "obs_dtype": self.obs_dtype,
            "num_actions": self.num_actions,
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "EnvSpec":
        """Raises MalformedMessage when `plain` is not what `to_plain` gives."""
        shape, dtype, actions = (
            plain.get("obs_shape"),
            plain.get("obs_dtype"),
            plain.get("num_actions"),
        )
        if not (type(shape) is list and type(dtype) is str and type(actions) is int) or not all(
            type(size) is int for size in shape
        ):
            raise MalformedMessage(f"not an environment spec: {plain!r:.80}", Reason.FIELD)
        spec = cls(tuple(shape), dtype, actions)
        if spec.obs_dtype not in DTYPES or min(shape, default=1) < 1 or spec.num_actions < 1:
            raise MalformedMessage(f"an impossible environment spec: {plain!r:.80}", Reason.RANGE)
        return spec
