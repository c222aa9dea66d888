"""An actor's Q-values from the inference process of its host.

The head says where that process listens. While it is away (killed, started again, not there yet)
the actor waits, and from time to time has a word with the head. When its patience is over it
computes by itself, until the process is heard of again.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import zmq

from actor.acting_policy import WAIT_MS, Interrupted, LocalPolicy
from actor.inference_client import InferenceClient
from common.errors import JoinRefused
from common.membership import Membership
from common.messages import QValues

PATIENCE_S = 10.0
"""How long an actor waits for an answer before it computes by itself: enough for the inference
process to be started, or started again."""

log = logging.getLogger(__name__)


class RemotePolicy:
    """Asks for Q-values; weights do not come to this process.

    Args:
        goes_on: a word with the head; false when this process is to end.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        membership: Membership,
        goes_on: Callable[[], bool],
    ) -> None:
        self._context = context
        self._membership = membership
        self._goes_on = goes_on
        self._endpoint = ""
        self._client: InferenceClient | None = None
        self._local: LocalPolicy | None = None
        """While nobody answers."""
        self._version = -1

    @property
    def version(self) -> int:
        return self._version if self._local is None else self._local.version

    def q_values(self, obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if self._local is None or self._is_heard_of_again():
            answer = self._ask(obs)
            if answer is not None:
                self._compute_there(answer)
                return answer.q_values
            self._compute_here()
        assert self._local is not None
        return self._local.q_values(obs)

    def renew(self) -> None:
        if self._local is not None:
            self._local.renew()

    def close(self) -> None:
        for part in (self._client, self._local):
            if part is not None:
                part.close()

    def _ask(self, obs: npt.NDArray[Any]) -> QValues | None:
        """The answer, or None when patience is over."""
        deadline_s = time.monotonic() + PATIENCE_S
        asked = None
        while time.monotonic() < deadline_s:
            self._follow_head()
            if self._client is None:
                time.sleep(WAIT_MS / 1000)
            else:
                if self._client is not asked:
                    self._client.ask(obs)
                    asked = self._client
                answer = self._answer(self._client, WAIT_MS)
                if answer is not None:
                    return answer
                if self._client is None:
                    return None
            if not self._goes_on():
                raise Interrupted
        return None

    def _follow_head(self) -> bool:
        """Turn to the process that the head names; true when it names another one than before."""
        endpoint = self._membership.inference_endpoint
        if endpoint == self._endpoint:
            return False
        self._endpoint = endpoint
        if self._client is not None:
            self._client.close()
            self._client = None
        if endpoint:
            actions = self._membership.manifest.spec.num_actions
            rejections = self._membership.rejections
            self._client = InferenceClient(self._context, endpoint, actions, rejections)
        return self._client is not None

    def _is_heard_of_again(self) -> bool:
        """Whether another process is there, or the one that did not answer does now. What it
        answers is old: by now the observations that it was asked about have changed."""
        return self._follow_head() or (
            self._client is not None and self._answer(self._client) is not None
        )

    def _answer(self, client: InferenceClient, timeout_ms: int = 0) -> QValues | None:
        try:
            return client.answer(timeout_ms)
        except JoinRefused as error:
            # It is somebody else's on this host, and holds another key: nothing more to hope for.
            log.warning("%s", error)
            client.close()
            self._client = None
            return None

    def _compute_there(self, answer: QValues) -> None:
        if self._local is not None or self._version < 0:
            log.info("Q-values come from the inference process at %s", self._endpoint)
        self._version = answer.version
        if self._local is not None:
            self._local.close()
            self._local = None

    def _compute_here(self) -> None:
        where = f"at {self._endpoint} does not answer" if self._endpoint else "is not there"
        log.warning("this host's inference process %s: computing Q-values here", where)
        if self._local is None:
            self._local = LocalPolicy(self._context, self._membership, self._goes_on)
