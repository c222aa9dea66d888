"""The actor's side of the weight broadcast: the newest version, taken between two steps."""

import reprlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zmq
from torch import Tensor, nn

from actor.versions import newer_weights
from common import transport
from common.errors import MalformedMessage, Reason
from common.messages import Weights
from common.rejections import Rejections


class WeightsSubscription:
    """Versions of one topic. Newest (epoch, version) wins; late joiners get the current one."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        topic: bytes,
        rejections: Rejections,
    ) -> None:
        # Older versions are worthless: a short queue bounds memory while nobody reads. (CONFLATE
        # would forbid messages of several frames.)
        self._socket = transport.connect(context, zmq.SUB, endpoint, queue_messages=4)
        self._socket.subscribe(topic)
        self._topic = topic
        self._endpoint = endpoint
        self._newest = (-1, -1)
        self._rejections = rejections

    def latest(self, timeout_ms: int = 0) -> Weights | None:
        """The newest version that came since the last call, if any; waits at most `timeout_ms`
        for the first."""
        if timeout_ms:
            transport.wait(self._socket, timeout_ms)
        latest = None
        while (frames := transport.receive_frames(self._socket)) is not None:
            newer = newer_weights(frames[1:], self._newest, self._rejections)
            if newer is not None:
                self._newest = newer.epoch, newer.version
                latest = newer
        return latest

    def pause(self) -> None:
        """Have nothing sent until `resume`: a queue that nobody reads keeps the oldest versions."""
        self._socket.unsubscribe(self._topic)

    def resume(self) -> None:
        """Forget what came meanwhile, and have the head send its current version: it answers every
        subscription."""
        while transport.receive_frames(self._socket) is not None:
            pass
        self._socket.subscribe(self._topic)

    def move(self, endpoint: str) -> None:
        """The head was restarted: weights come from here now. Takes whatever version is next, for
        the head may have gone back to an earlier one."""
        self._newest = (-1, -1)
        self.follow(endpoint)

    def follow(self, endpoint: str, *, on_this_host: bool = False) -> None:
        """The same versions come from here now. `on_this_host`: from the relay of this host."""
        if endpoint != self._endpoint:
            transport.reconnect(self._socket, self._endpoint, endpoint, on_this_host=on_this_host)
            self._endpoint = endpoint

    def close(self) -> None:
        self._socket.close()


def load_weights(network: nn.Module, weights: Weights) -> None:
    """Put a version into the network.

    Raises MalformedMessage when names, shapes, dtypes or values are not this network's; the network
    is as it was then.
    """
    own = network.state_dict()
    if own.keys() != weights.tensors.keys():
        raise MalformedMessage(
            f"weights for {reprlib.repr(sorted(weights.tensors))}, this network has {sorted(own)}",
            Reason.FIELD,
        )
    new = {name: _copied(name, weights.tensors[name], tensor) for name, tensor in own.items()}
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(torch.from_numpy(new[name]))


def _copied(name: str, array: npt.NDArray[Any], tensor: Tensor) -> npt.NDArray[Any]:
    """What is to go into the tensor: real numbers in float32, all else in the tensor's own dtype.

    A copy, for the frame's memory is read-only and goes with the message. Raises MalformedMessage
    when it does not fit there.
    """
    if array.shape != tuple(tensor.shape):
        raise MalformedMessage(
            f"weights {name} have shape {array.shape}, expected {tuple(tensor.shape)}", Reason.SHAPE
        )
    if not tensor.is_floating_point():
        expected = torch.empty(0, dtype=tensor.dtype).numpy().dtype
        if array.dtype != expected:
            raise MalformedMessage(
                f"weights {name} are {array.dtype}, expected {expected}", Reason.DTYPE
            )
        return array.copy()
    if array.dtype.kind != "f":
        raise MalformedMessage(
            f"weights {name} are {array.dtype}, expected real numbers", Reason.DTYPE
        )
    with np.errstate(over="ignore"):
        # float64 beyond float32's range becomes ∞.
        real = array.astype(np.float32)
    if not np.isfinite(real).all():
        raise MalformedMessage(f"weights {name} are not finite", Reason.NON_FINITE)
    return real
