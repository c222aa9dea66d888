"""The actor's side of the weight broadcast: the newest version, taken between two steps."""

import numpy as np
import torch
import zmq
from torch import nn

from common import codec, transport
from common.errors import WireError
from common.messages import Weights


class WeightsSubscription:
    """Versions of one topic. Newest (epoch, version) wins; late joiners get the current one."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, topic: bytes
    ) -> None:
        # Older versions are worthless: a short queue bounds memory while nobody reads. (CONFLATE
        # would forbid messages of several frames.)
        self._socket = transport.connect(context, zmq.SUB, endpoint, queue_messages=4)
        self._socket.subscribe(topic)
        self._topic = topic
        self._endpoint = endpoint
        self._newest = (-1, -1)
        self.rejected = 0
        """Messages that were no weights."""

    def latest(self, timeout_ms: int = 0) -> Weights | None:
        """The newest version that came since the last call, if any; waits at most `timeout_ms`
        for the first."""
        if timeout_ms:
            transport.wait(self._socket, timeout_ms)
        latest = None
        while (frames := transport.receive_frames(self._socket)) is not None:
            try:
                message = codec.decode(frames[1:])
            except WireError:
                self.rejected += 1
                continue
            if isinstance(message, Weights) and (message.epoch, message.version) > self._newest:
                self._newest = (message.epoch, message.version)
                latest = message
        return latest

    def ask_again(self) -> None:
        """Have the head send its current version: while this process was busy and the queue full,
        the newest were dropped. The head answers every subscription."""
        self._socket.unsubscribe(self._topic)
        self._socket.subscribe(self._topic)

    def move(self, endpoint: str) -> None:
        """The head was restarted: weights come from here now. Takes whatever version is next, for
        the head may have gone back to an earlier one."""
        self._newest = (-1, -1)
        self.follow(endpoint)

    def follow(self, endpoint: str) -> None:
        """The same versions come from here now."""
        if endpoint != self._endpoint:
            transport.reconnect(self._socket, self._endpoint, endpoint)
            self._endpoint = endpoint

    def close(self) -> None:
        self._socket.close()


def load_weights(network: nn.Module, weights: Weights) -> None:
    """Put a version into the network.

    Raises WireError when names, shapes or values are not this network's.
    """
    own = network.state_dict()
    if own.keys() != weights.tensors.keys():
        raise WireError(f"weights for {sorted(weights.tensors)}, this network has {sorted(own)}")
    for name, tensor in own.items():
        array = weights.tensors[name]
        if tuple(array.shape) != tuple(tensor.shape):
            raise WireError(f"weights {name} have shape {array.shape}, expected {tensor.shape}")
        if not np.isfinite(array).all():
            raise WireError(f"weights {name} are not finite")
    with torch.no_grad():
        for name, tensor in own.items():
            # astype copies: the frame's memory is read-only and goes with the message.
            tensor.copy_(torch.from_numpy(weights.tensors[name].astype(np.float32)))
