"""Servers that do not keep to the contract: what they say is counted and not believed."""

from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from actor.blocks import Blocks
from actor.inference_client import InferenceClient
from actor.inference_server import MAX_ROWS, InferenceBatch
from actor.replay_client import ReplayClient
from actor.weights import WeightsSubscription
from common import transport
from common.config import Config
from common.errors import MalformedMessage, Reason, WireError
from common.manifest import Manifest
from common.messages import ACTING, Ack, Message, QValues, Rejected, Weights
from common.rejections import Rejections
from common.spec import EnvSpec
from tests.contract.sockets import PATIENCE_MS, Sockets, receive_with_prefix
from tests.waiting import wait_until

SESSION = 5
BLOCKS = Blocks(
    obs=np.zeros((1, 6, 2), np.float32),
    action=np.zeros((1, 6), np.int32),
    reward=np.zeros((1, 6), np.float32),
    row_kind=np.zeros((1, 6), np.uint8),
    priority=np.zeros((1, 4), np.float32),
)


class Server:
    """A ROUTER that says what it is told to its one client."""

    def __init__(self, sockets: Sockets) -> None:
        self.socket, self.endpoint = sockets.bind(zmq.ROUTER, "tcp://127.0.0.1:0")
        self.rejections = Rejections("actor_rejected_messages_total")
        self._peer = b""

    def hear(self) -> Message:
        self._peer, message = receive_with_prefix(self.socket)
        return message

    def say(self, *said: Message | bytes) -> None:
        for each in said:
            if isinstance(each, bytes):
                self.socket.send_multipart([self._peer, each])
            else:
                assert transport.send(self.socket, each, prefix=(self._peer,))

    def rejected(self) -> dict[Reason, int]:
        return {reason: n for reason, n in self.rejections.by_reason.items() if n}


@pytest.fixture
def server() -> Iterator[Server]:
    with Sockets() as sockets:
        yield Server(sockets)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


def test_an_actor_passes_over_what_is_no_acknowledgement_of_its_inserts(
    server: Server, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    client = ReplayClient(context, server.endpoint, SESSION, 3, server.rejections)
    for _ in range(2):
        client.insert(BLOCKS, 0)
        server.hear()
    # Garbage; what was never sent; another's; an old one; and at last the first of the two.
    server.say(b"\xc1", Ack(SESSION, 2), Ack(SESSION, 1 << 62), Ack(9, 1), Ack(SESSION, -1))
    server.say(Ack(SESSION, 0))
    wait_until(lambda: client.poll() or client.unacknowledged == 1, "the first is acknowledged")
    assert server.rejected() == {Reason.UNDECODABLE: 1, Reason.SEQUENCE: 2}

    server.say(Rejected(SESSION, 1, "no\nthanks\x1b[2J"))
    with pytest.raises(WireError, match=r"rejected an insert: no.thanks"):
        wait_until(lambda: client.poll(10), "the rejection")
    client.close()


def test_an_actor_waits_on_for_values_that_fit(
    server: Server, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    client = InferenceClient(context, server.endpoint, 2, server.rejections)
    client.ask(np.zeros((3, 2), np.float32))
    server.hear()
    good = QValues(1, 7, np.ones((3, 2), np.float32))
    server.say(
        b"HTTP/1.1 400 Bad Request",
        QValues(1, 7, np.ones((2, 3), np.float32)),
        QValues(1, 7, np.full((3, 2), np.nan, np.float32)),
        QValues(99, 7, good.q_values),
        Ack(0, 0),
        good,
    )
    answer = wait_until(lambda: client.answer(10), "the answer")
    assert answer is not None
    assert (answer.q_values == 1.0).all()
    assert server.rejected() == {
        Reason.UNDECODABLE: 1, Reason.SHAPE: 1, Reason.NON_FINITE: 1,
    }  # fmt: skip
    client.close()


def test_what_comes_under_weights_and_is_none_is_passed_over(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    rejections = Rejections("actor_rejected_messages_total")
    with Sockets() as sockets:
        head, endpoint = sockets.bind(zmq.XPUB, "tcp://127.0.0.1:0")
        subscription = WeightsSubscription(context, endpoint, ACTING, rejections)
        assert head.poll(PATIENCE_MS)
        head.send_multipart([ACTING, b"\xc1"])
        head.send_multipart([ACTING])
        transport.send(head, Ack(0, 0), prefix=(ACTING,))
        transport.send(head, Weights(0, 3, {"w": np.zeros(2, np.float32)}), prefix=(ACTING,))
        newest = wait_until(lambda: subscription.latest(10), "the weights")
        assert newest is not None
        assert newest.version == 3
        assert rejections.by_reason[Reason.UNDECODABLE] == 2
        assert rejections.by_reason[Reason.UNKNOWN_KIND] == 1
        subscription.close()


SPEC = EnvSpec((4,), "<f4", 2)


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((3, 4), "<f8", Reason.DTYPE),
        ((3, 5), "<f4", Reason.SHAPE),
        ((0, 4), "<f4", Reason.SHAPE),
        ((), "<f4", Reason.SHAPE),
        ((4,), "<f4", Reason.SHAPE),
        ((MAX_ROWS + 1, 4), "<f4", Reason.TOO_LARGE),
    ],
)
def test_observations_that_are_none_of_this_run_are_refused(
    shape: tuple[int, ...], dtype: str, reason: Reason
) -> None:
    batch = InferenceBatch(Manifest("r", Config(), SPEC), pinned=False)
    batch.check(np.zeros((MAX_ROWS, 4), np.float32))
    with pytest.raises(MalformedMessage) as caught:
        batch.check(np.zeros(shape, dtype))
    assert caught.value.reason is reason
