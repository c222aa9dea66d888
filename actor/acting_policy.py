"""Where an actor's Q-values come from: its own network, or the inference process of its host.

An actor's loop, its rollout and its blocks see `ActingPolicy` and do not know which it is. An
actor's own network is `LocalPolicy`; `actor/remote_policy.py` is the other way.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import zmq

from actor.policy import Policy
from actor.weights import WeightsSubscription
from common.membership import Membership
from common.messages import ACTING

WAIT_MS = 20
"""How long one wait for weights, Q-values or credit lasts before the head is heard again."""
LOOK_PERIOD_S = 0.002
"""Between two looks for new weights: a look costs as much as stepping a small environment."""


class Interrupted(Exception):
    """This process is to end, and does not finish what it was doing."""


class ActingPolicy(Protocol):
    """The run's Q-network with the newest weights."""

    @property
    def version(self) -> int:
        """Of the weights that the last Q-values came from; −1: of none yet."""

    def q_values(self, obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """[N, *obs_shape], or stacks [N, S, *obs_shape] → [N, A], however long it takes.

        Raises:
            Interrupted: this actor is to end.
            NonFiniteLoss, WireError: there will be none.
        """

    def renew(self) -> None:
        """Take the newest weights if there are any: between two steps, and while waiting, for the
        queue of versions is short and keeps the oldest."""

    def close(self) -> None: ...


class LocalPolicy:
    """Computes in this process, with weights that the head sends.

    Args:
        goes_on: a word with the head; false when this process is to end.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        membership: Membership,
        goes_on: Callable[[], bool],
        device: torch.device | None = None,
    ) -> None:
        self._membership = membership
        self._joins = membership.joins
        self._goes_on = goes_on
        self._policy = Policy(membership.manifest, device)
        self._weights = WeightsSubscription(
            context, membership.weights_endpoint, ACTING, membership.rejections
        )
        self._next_look_s = 0.0

    @property
    def version(self) -> int:
        return self._policy.version

    def q_values(self, obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        self.wait_for_weights()
        return self._policy.q_values(obs)

    def wait_for_weights(self) -> None:
        """Until there are some. Raises Interrupted when this process is to end before."""
        while self._policy.version < 0:
            if not self._goes_on():
                raise Interrupted
            self.renew(WAIT_MS)

    def renew(self, timeout_ms: int = 0) -> None:
        """Waits at most `timeout_ms` for weights; without waiting, looks every 2 ms at most."""
        now_s = time.monotonic()
        if not timeout_ms and now_s < self._next_look_s:
            return
        self._next_look_s = now_s + LOOK_PERIOD_S
        membership = self._membership
        if membership.joins != self._joins:
            self._joins = membership.joins
            self._weights.move(membership.weights_endpoint)
        relay = membership.relay_endpoint
        self._weights.follow(relay or membership.weights_endpoint, on_this_host=bool(relay))
        weights = self._weights.latest(timeout_ms)
        if weights is not None:
            self._policy.take(weights, membership.rejections)

    def close(self) -> None:
        self._weights.close()
