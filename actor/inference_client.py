"""The actor's side of an inference request: one at a time, asked again when a connection broke."""

import time
from typing import Any

import numpy.typing as npt
import zmq

from common import transport
from common.errors import MalformedMessage, Reason, WireError
from common.finite import all_finite
from common.messages import InferenceRequest, QValues, Rejected
from common.rejections import Rejections, quoted


class InferenceClient:
    """One actor's connection to the inference process of its host."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        num_actions: int,
        rejections: Rejections,
    ) -> None:
        self._socket, self._watch = transport.connect_watched(
            context, zmq.DEALER, endpoint, on_this_host=True
        )
        self._num_actions = num_actions
        self._rejections = rejections
        self._request: InferenceRequest | None = None
        self._sequence = 0

    def ask(self, obs: npt.NDArray[Any]) -> None:
        """For Q-values of observations [N, *obs_shape], or of stacks [N, S, *obs_shape].

        They must not change before the answer. What was asked before is forgotten.
        """
        self._sequence += 1
        self._request = InferenceRequest(self._sequence, obs)
        transport.send(self._socket, self._request)

    def answer(self, timeout_ms: int = 0) -> QValues | None:
        """To the newest request, if it comes within `timeout_ms`.

        An answer that does not fit the request is none. Raises WireError when the request is
        rejected.
        """
        if self._watch.reconnected() and self._request is not None:
            transport.send(self._socket, self._request)
        if timeout_ms:
            transport.wait(self._socket, timeout_ms)
        request = self._request
        while transport.has_message(self._socket):
            try:
                message = transport.receive(self._socket)
                if isinstance(message, Rejected):
                    raise WireError(
                        f"the inference process rejected a request: {quoted(message.reason)}"
                    )
                # What was asked twice is answered twice.
                if (
                    isinstance(message, QValues)
                    and request is not None
                    and message.sequence == request.sequence
                ):
                    self._check(message, (len(request.obs), self._num_actions))
                    self._request = None
                    return message
            except MalformedMessage as error:
                self._rejections.count(error, time.monotonic())
        return None

    @staticmethod
    def _check(answer: QValues, expected: tuple[int, int]) -> None:
        values = answer.q_values
        if values.shape != expected:
            raise MalformedMessage(
                f"the inference process answered with values of shape {values.shape}, expected "
                f"{expected}",
                Reason.SHAPE,
            )
        if not all_finite(values.reshape(-1)):
            raise MalformedMessage(
                "the inference process answered with values that are not finite",
                Reason.NON_FINITE,
            )

    def close(self) -> None:
        self._watch.close()
        self._socket.close()
