"""Q-values of observations, one batched forward at a time."""

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actor.forward import forward_of
from actor.weights import load_weights
from common.errors import MalformedMessage, NonFiniteLoss
from common.finite import all_finite
from common.manifest import Manifest
from common.messages import Weights
from common.networks import build_network
from common.rejections import Rejections


class Policy:
    """The run's Q-network with the newest weights that were loaded.

    Args:
        device: where it computes; None: on the CPU.
    """

    def __init__(self, manifest: Manifest, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        self._network = build_network(manifest.config, manifest.spec).to(self._device)
        self._network.eval().requires_grad_(False)
        self._forward = forward_of(self._network)
        self.version = -1
        """Of the weights in use; −1: none yet."""

    def load(self, weights: Weights) -> None:
        """Raises WireError when these are not this network's weights."""
        load_weights(self._network, weights)
        self._forward = forward_of(self._network)
        self.version = weights.version

    def take(self, weights: Weights, rejections: Rejections) -> bool:
        """Load what the learner sent; whether it fits this network. If not, it is counted, and the
        weights that there were stay in use.

        Raises MalformedMessage when there were none: the next ones would not fit either.
        """
        try:
            self.load(weights)
        except MalformedMessage as error:
            if self.version < 0:
                raise MalformedMessage(
                    f"the learner's weights do not fit the network here: {error}", error.reason
                ) from error
            rejections.count(error, time.monotonic())
            return False
        return True

    def q_values(self, obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """[N, *obs_shape], or stacks [N, S, *obs_shape] → [N, A].

        Raises NonFiniteLoss when a value is not finite.
        """
        # From page-locked memory this is in line before the forward, and nobody waits for it.
        on_device = torch.from_numpy(obs).to(self._device, non_blocking=True)
        values: npt.NDArray[np.float32] = self._forward(on_device).cpu().numpy()
        if not all_finite(values.reshape(-1)):
            raise NonFiniteLoss(f"the network of version {self.version} gives Q-values of NaN or ∞")
        return values
