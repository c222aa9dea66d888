"""A server is replaced by another at its address: clients notice, however fast they had connected.

What was under way on the old connection is lost; who does not notice waits for it for ever.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import zmq

from actor.blocks import Blocks
from actor.inference_client import InferenceClient
from actor.replay_client import ReplayClient
from common import codec, transport
from common.config import Config
from common.errors import AddressInUse
from common.manifest import Manifest
from common.messages import (
    Ack,
    Heartbeat,
    InferenceRequest,
    Insert,
    Join,
    Message,
    SampleRequest,
    Serving,
    Welcome,
)
from common.rejections import Rejections
from common.spec import EnvSpec
from common.trace import NO_TRACE
from learner.batches import Batches
from learner.feed import Prefetcher
from replay_server.server import ReplayOptions, build_table, run_replay_server
from tests.integration.runs import TINY, WAIT_S, until

Context = zmq.Context[zmq.Socket[bytes]]
SPEC = EnvSpec((2,), "<f4", 2)
MANIFEST = Manifest("run", Config(**TINY), SPEC)

REJECTIONS = Rejections("actor_rejected_messages_total")


class Server:
    """A ROUTER that hears everything and answers nothing."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.socket, self.address = transport.bind(context, zmq.ROUTER, "tcp://127.0.0.1:0")
        self.is_known = threading.Event()
        """Until then the socket is in the hands of the client's thread."""
        self.peer = b""
        """Who was heard last."""

    def hear(self, client: Callable[[], object] = lambda: None) -> Message:
        """The next message; the client does something again and again until it comes."""

        def frames() -> list[codec.Frame] | None:
            client()
            return transport.receive_frames(self.socket)

        assert self.is_known.wait(WAIT_S)
        heard = until(frames, "a message of the client")
        self.peer = bytes(heard[0])
        return codec.decode(heard[1:])

    def is_replaced(self) -> None:
        """It goes; another one comes to its address and knows nothing."""
        self.socket.close(linger=0)

        def bound() -> zmq.Socket[bytes] | None:
            with contextlib.suppress(AddressInUse):
                return transport.bind(self.context, zmq.ROUTER, self.address)[0]
            return None

        self.socket = until(bound, f"{self.address} to be free again")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Connecting to it takes until a first message has gone to and fro, as it does when the client
    is suspended just then."""
    with zmq.Context() as context:
        server = Server(context)
        connect = zmq.Socket.connect

        def connect_and_exchange(client: zmq.Socket[bytes], address: str) -> None:
            connect(client, address)
            if address == server.address:
                client.send(b"")
                server.socket.send_multipart(server.socket.recv_multipart())
                client.recv()
                server.is_known.set()

        monkeypatch.setattr(zmq.Socket, "connect", connect_and_exchange)
        yield server
        server.socket.close(linger=0)


def blocks() -> Blocks:
    rows, length = (1, MANIFEST.layout.rows), MANIFEST.layout.length
    return Blocks(
        obs=np.zeros((*rows, 2), np.float32),
        action=np.zeros(rows, np.int32),
        reward=np.zeros(rows, np.float32),
        row_kind=np.zeros(rows, np.uint8),
        priority=np.zeros((1, length), np.float32),
    )


def test_an_actor_sends_its_window_again(server: Server) -> None:
    actor = ReplayClient(server.context, server.address, session=5, window=2, rejections=REJECTIONS)
    with contextlib.closing(actor):
        actor.insert(blocks(), weights_version=3)
        first = server.hear(actor.poll)
        server.is_replaced()
        again = server.hear(actor.poll)
        assert isinstance(first, Insert)
        assert isinstance(again, Insert)
        assert (again.session, again.sequence) == (first.session, first.sequence) == (5, 0)
        assert actor.resent == 1
        actor.insert(blocks(), weights_version=3)
        after = server.hear(actor.poll)
        assert isinstance(after, Insert)
        assert (first.connection, again.connection, after.connection) == (0, 1, 1)


def test_a_server_that_lost_what_it_had_acknowledged_takes_the_window(server: Server) -> None:
    """Each insert was sent while 0 was not acknowledged yet, of which the new one never heard."""
    actor = ReplayClient(server.context, server.address, session=5, window=4, rejections=REJECTIONS)
    with contextlib.closing(actor):
        for _ in range(4):
            actor.insert(blocks(), weights_version=3)
        sent = [server.hear(actor.poll) for _ in range(4)]
        assert [m.oldest for m in sent if isinstance(m, Insert)] == [0] * 4
        assert transport.send(server.socket, Ack(5, 1), prefix=(server.peer,))

        def acknowledged() -> bool:
            actor.poll()
            return actor.unacknowledged == 2

        until(acknowledged, "two acknowledgements")
        server.is_replaced()
        again = [server.hear(actor.poll) for _ in range(2)]
        table = build_table(MANIFEST, None)
        replies = [table.handle(b"actor", message, 0.0) for message in again]
        assert replies == [[(b"actor", Ack(5, 2))], [(b"actor", Ack(5, 3))]]


def test_an_actor_asks_its_inference_process_again(server: Server) -> None:
    with contextlib.closing(
        InferenceClient(server.context, server.address, 2, REJECTIONS)
    ) as actor:
        actor.ask(np.ones((3, 2), np.float32))
        first = server.hear(actor.answer)
        server.is_replaced()
        again = server.hear(actor.answer)
        assert isinstance(first, InferenceRequest)
        assert isinstance(again, InferenceRequest)
        assert again.sequence == first.sequence
        assert (again.obs == 1.0).all()


def test_a_replay_server_says_again_where_it_serves(server: Server) -> None:
    """The head may have known its session all the time, and never have heard where it serves."""
    stop = threading.Event()
    options = ReplayOptions(server.address, "inproc://replay")
    replay = threading.Thread(
        target=run_replay_server, args=(options, server.context, stop, lambda _: None)
    )
    replay.start()
    try:
        assert isinstance(server.hear(), Join)
        welcome = Welcome(7, 0, 0, 0, 0, 1, MANIFEST.to_plain(), "inproc://weights", "")
        assert transport.send(server.socket, welcome, prefix=(server.peer,))
        first = server.hear()
        server.is_replaced()
        while isinstance(again := server.hear(), Heartbeat):
            pass
        assert isinstance(first, Serving)
        assert again == first
    finally:
        stop.set()
        replay.join()


def test_a_learner_asks_for_its_batches_again(server: Server) -> None:
    learner = Prefetcher(
        Batches(
            server.context, Serving(1, server.address), MANIFEST, torch.device("cpu"), NO_TRACE
        ),
        server.context,
    )
    with contextlib.closing(learner):
        first = server.hear()
        server.is_replaced()
        again = server.hear()
        assert isinstance(first, SampleRequest)
        assert isinstance(again, SampleRequest)
        assert again.batches == first.batches == MANIFEST.config.prefetch_batches
