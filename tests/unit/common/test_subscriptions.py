"""Who subscribes to weights: the current version for those who come late, an end for strangers."""

import select
import socket as stream_sockets
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import zmq

from common.errors import Reason
from common.messages import ACTING
from common.rejections import Rejections
from common.subscriptions import RESEND_PERIOD_S, Subscriptions
from tests.abuse.attacks import GREETING, ready
from tests.contract.sockets import Sockets
from tests.waiting import wait_until


class Publisher:
    """An XPUB socket as the head has it, and how often it would send the current weights."""

    def __init__(self, sockets: Sockets, address: str) -> None:
        self.socket, self.endpoint = sockets.bind_publisher(address)
        self.rejections = Rejections("head_rejected_messages_total")
        self.subscriptions = Subscriptions(self.socket, (ACTING,), self.rejections)
        self.resent: list[bytes] = []

    def look(self, now_s: float) -> None:
        self.resent += self.subscriptions.take(now_s)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        def met() -> bool:
            self.look(0.0)
            return bool(condition())

        wait_until(met, what)


def test_many_who_come_at_once_get_the_current_version_once(sockets: Sockets) -> None:
    publisher = Publisher(sockets, "tcp://127.0.0.1:0")
    sockets.connect(zmq.SUB, publisher.endpoint).subscribe(ACTING)
    publisher.until(lambda: publisher.resent, "the first is there")
    for _ in range(20):
        sockets.connect(zmq.SUB, publisher.endpoint).subscribe(ACTING)
    wait_until(lambda: publisher.look(0.1) or len(publisher.subscriptions._wanted), "others are")
    assert publisher.resent == [ACTING]
    publisher.look(RESEND_PERIOD_S)
    assert publisher.resent == [ACTING] * 2
    assert publisher.rejections.total == 0


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
def test_who_asks_for_other_topics_is_cut_off_and_nobody_else(
    sockets: Sockets, scheme: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("s") / "x"
    address = "tcp://127.0.0.1:0" if scheme == "tcp" else f"ipc://{path}"
    publisher = Publisher(sockets, address)
    honest, watched = sockets.connect_watched(zmq.SUB, publisher.endpoint)
    honest.subscribe(ACTING)
    publisher.until(lambda: publisher.resent, "the honest one is there")
    stranger, watch = sockets.connect_watched(zmq.SUB, publisher.endpoint)
    stranger.subscribe(b"a topic of my own")

    publisher.until(watch.reconnected, "the stranger is cut off and comes again")

    assert publisher.rejections.by_reason[Reason.UNKNOWN_KIND] >= 1
    publisher.socket.send_multipart([ACTING, b"weights"])
    assert honest.poll(10_000)
    assert not watched.reconnected()


def test_few_topics_can_wait_to_be_read(sockets: Sockets) -> None:
    """ZeroMQ reads what has arrived even on a connection that was ended, and goes through what
    all asked for whenever one ends: a flood of them kept the head's thread busy for minutes."""
    publisher = Publisher(sockets, "tcp://127.0.0.1:0")
    where = urlsplit(publisher.endpoint)
    waiting = 0
    with stream_sockets.create_connection((where.hostname, where.port or 0)) as stranger:
        stranger.setsockopt(stream_sockets.SOL_SOCKET, stream_sockets.SO_SNDBUF, 1)
        stranger.sendall(GREETING + ready(b"SUB"))
        greeted = len(GREETING + ready(b"XPUB"))
        assert len(stranger.recv(greeted, stream_sockets.MSG_WAITALL)) == greeted
        stranger.setblocking(False)
        topic = b"\x00\x10\x01a topic of mine"
        while waiting < 1 << 20 and select.select([], [stranger], [], 0.5)[1]:
            waiting += stranger.send(topic * 20)
        assert 0 < waiting < 1 << 13
        publisher.until(lambda: _ended(stranger), "the stranger is cut off")
    assert publisher.rejections.total >= 1


def _ended(stranger: stream_sockets.socket) -> bool:
    try:
        return not stranger.recv(1 << 16)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_stranger_within_the_process_is_only_counted(sockets: Sockets) -> None:
    publisher = Publisher(sockets, "inproc://weights")
    sockets.connect(zmq.SUB, publisher.endpoint).subscribe(b"mine")
    publisher.until(lambda: publisher.rejections.total, "it is counted")


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with Sockets() as sockets:
        yield sockets
