"""An actor whose host's inference process is somebody else's."""

from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import zmq

from actor import remote_policy
from actor.remote_policy import RemotePolicy
from common import transport
from common.keys import Keys
from common.membership import Membership
from common.security import SecureContext, Security


class Local:
    """Computes by itself."""

    version = 7

    def __init__(self, *_: object) -> None:
        pass

    def q_values(self, obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.full((len(obs), 2), 5.0, np.float32)

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture
def contexts() -> Iterator[list[SecureContext]]:
    """Of two processes, each with a key of its own."""
    with ExitStack() as stack:
        made = []
        for name in ("theirs", "ours"):
            public, secret = zmq.curve_keypair()
            keys = Keys(name, secret, public, public)
            made.append(stack.enter_context(SecureContext(Security(keys))))
        yield made


def test_one_that_holds_another_key_is_not_waited_for(
    contexts: list[SecureContext], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours = contexts
    monkeypatch.setattr(remote_policy, "LocalPolicy", Local)
    monkeypatch.setattr(remote_policy, "PATIENCE_S", 3_600.0)
    socket, endpoint = transport.bind(theirs, zmq.ROUTER, "tcp://127.0.0.1:0", for_this_host=True)
    spec = SimpleNamespace(num_actions=2)
    membership = SimpleNamespace(
        inference_endpoint=endpoint,
        manifest=SimpleNamespace(spec=spec),
        rejections=Rejections("actor_rejected_messages_total"),
    )
    policy = RemotePolicy(ours, cast(Membership, membership), lambda: True)
    try:
        for _ in range(2):
            assert (policy.q_values(np.ones((3, 2), np.float32)) == 5.0).all()
        assert policy.version == 7
        assert f"{endpoint} is another server than the one that ours was made for" in caplog.text
        assert not transport.has_message(socket)
    finally:
        policy.close()
        socket.close()
