"""A head among strangers: what they can make it hold, send and write is bounded."""

import logging
import math
import select
import socket as stream_sockets
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import zmq

import learner.head
from common import transport
from common.errors import MalformedMessage, Reason
from common.messages import ACTING, Heartbeat, Leave, Message, Refused, Serving, StatusRequest
from common.rejections import Rejections
from learner.admission import MAX_ENVS, MAX_LINES, MAX_MESSAGES, MAX_NAME, FloodGate
from learner.control import ControlPlane
from learner.run_metrics import MAX_VALUE
from learner.status import LearnerCounters
from learner.subscriptions import RESEND_PERIOD_S, Subscriptions
from tests.abuse.attacks import GREETING, ready
from tests.contract.sockets import Sockets
from tests.head_with_peers import MANIFEST, Run, heartbeat, join, result
from tests.waiting import wait_until

LONG = "x" * (MAX_NAME + 1)


def only(run: Run) -> Reason:
    """The reason of the one message that was rejected."""
    (found,) = (reason for reason, count in run.head.rejections.by_reason.items() if count)
    return found


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (join("admin"), Reason.REFUSED),
        (join("replay_server"), Reason.REFUSED),
        (join(num_envs=-1), Reason.RANGE),
        (join(num_envs=MAX_ENVS + 1), Reason.RANGE),
        (join(host=LONG), Reason.TOO_LARGE),
        (join(machine=LONG), Reason.TOO_LARGE),
        (join(metrics_endpoint=LONG), Reason.TOO_LARGE),
        (StatusRequest(), Reason.UNKNOWN_KIND),  # The control thread answers those.
    ],
)
def test_what_the_head_declines_is_counted_and_said(message: Message, reason: Reason) -> None:
    run = Run()
    ((peer, answer),) = run.send(b"s", message)
    assert peer == b"s"
    assert isinstance(answer, Refused)
    assert only(run) is reason


@pytest.mark.parametrize(
    "message",
    [Serving(12345, "tcp://x:1"), heartbeat(12345), result(12345, [1.0])],
    ids=lambda message: message.kind,
)
def test_strangers_to_the_run_are_told_to_join_and_counted(message: Message) -> None:
    run = Run()
    run.send(b"s", message)
    assert only(run) is Reason.UNKNOWN_SESSION


def test_an_endpoint_that_is_too_long_is_not_handed_on() -> None:
    run = Run()
    session = run.welcome(b"i", join("inference", machine="m")).session
    run.send(b"i", Serving(session, LONG, "m"))
    assert only(run) is Reason.TOO_LARGE
    assert run.head.members[session].serving is None


def test_a_connection_is_one_member_however_often_it_joins() -> None:
    run = Run()
    for _ in range(50):
        run.welcome(b"s", join(num_envs=3))
    assert len(run.head.of_role("actor")) == 1


def test_a_run_takes_in_so_many_processes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner.head, "MAX_MEMBERS", 5)
    run = Run()  # Its replay server is the first.
    for i in range(9):
        run.send(b"%d" % i, join())
    assert len(run.head.members) == 5
    assert run.head.rejections.by_reason[Reason.FLOOD] == 5
    # When one leaves there is room again.
    run.send(b"0", Leave(run.head.of_role("actor")[0].session, "done"))
    run.welcome(b"new", join())


def test_a_run_takes_in_so_many_environments_and_no_more() -> None:
    run = Run()
    run.welcome(b"a", join(num_envs=MAX_ENVS - 1))
    ((_, answer),) = run.send(b"b", join(num_envs=2))
    assert isinstance(answer, Refused)
    assert run.head.ladder_size == MAX_ENVS - 1


def test_a_number_nobody_has_room_for_is_not_given() -> None:
    """Or each would be remembered for ever."""
    run = Run()
    assert run.welcome(b"a", join(preferred_number=1 << 60)).number == 0
    assert run.welcome(b"b", join(preferred_number=7)).number == 7


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2 * MAX_VALUE, -2 * MAX_VALUE])
@pytest.mark.parametrize("name", ["actor_env_steps_total", "actor_weights_version"])
def test_numbers_that_would_spoil_sums_stay_out_of_status_and_metrics(
    name: str, value: float
) -> None:
    run = Run()
    session = run.welcome(b"a", join()).session
    run.send(b"a", heartbeat(session, **{name: 3.0}))
    run.send(b"a", heartbeat(session, **{name: value, "nobody_knows_this": 1.0}))
    assert run.head.members[session].values == {name: 3.0}
    assert run.head.metrics.values() == {name: 3.0}


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (([1.0], [1, 2], [0]), Reason.SHAPE),
        (([1e31], [1], [0]), Reason.RANGE),
        (([math.nan], [1], [0]), Reason.RANGE),
        (([1.0], [-1], [0]), Reason.RANGE),
        (([1.0], [1], [99]), Reason.RANGE),
    ],
)
def test_impossible_episodes_are_left_out_and_counted(columns: Any, reason: Reason) -> None:
    run = Run()
    session = run.welcome(b"a", join()).session
    returns, lengths, envs = columns
    run.send(
        b"a",
        Heartbeat(
            session, {}, np.array(returns, np.float32), np.array(lengths, np.int32),
            np.array(envs, np.int32),
        ),
    )  # fmt: skip
    assert only(run) is reason
    assert run.head.take_episodes() == ([], [])


def test_an_evaluation_of_absurd_returns_is_none() -> None:
    run = Run()
    session = run.welcome(b"e", join("evaluator")).session
    run.send(b"e", result(session, [3e38, 3e38]))
    assert only(run) is Reason.NON_FINITE
    assert run.head.take_evaluations() == []


def test_names_in_the_log_are_on_one_line(caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    with caplog.at_level(logging.INFO):
        session = run.welcome(b"a", join(host="a\nERROR: \x1b[31m")).session
        run.send(b"a", Leave(session, "x\n" * 100_000))
    assert all("\n" not in line and "\x1b" not in line for line in caplog.messages)
    assert max(map(len, caplog.messages)) < 500


def test_joins_without_end_write_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    with caplog.at_level(logging.INFO):
        for i in range(4 * MAX_LINES):
            run.now_s = i / MAX_LINES  # Four seconds.
            run.welcome(b"s", join())
    assert len(caplog.messages) <= MAX_LINES + 5
    caplog.clear()
    # And when it is over, there is room for what matters.
    run.now_s += 60.0
    with caplog.at_level(logging.INFO):
        run.welcome(b"honest", join(host="honest"))
    assert any("honest" in line for line in caplog.messages)


# ------------------------------------------------------------------------------------------ floods


def test_a_connection_is_heard_so_often_and_the_others_as_ever() -> None:
    gate = FloodGate()
    for _ in range(MAX_MESSAGES):
        gate.check(b"loud")
    with pytest.raises(MalformedMessage) as caught:
        gate.check(b"loud")
    assert caught.value.reason is Reason.FLOOD
    gate.check(b"quiet")
    gate.open()
    gate.check(b"loud")


@pytest.fixture
def control() -> Iterator[ControlPlane]:
    with (
        zmq.Context() as context,
        closing(
            ControlPlane(context, "tcp://127.0.0.1:0", MANIFEST, LearnerCounters(), lambda: 0.0)
        ) as control,
    ):
        yield control


def test_a_status_flood_is_answered_in_part_and_others_in_full(control: ControlPlane) -> None:
    with Sockets() as sockets:
        loud = sockets.connect(zmq.DEALER, control.endpoint)
        quiet = sockets.connect(zmq.DEALER, control.endpoint)
        for _ in range(900):
            transport.send(loud, StatusRequest())
        transport.send(quiet, StatusRequest())
        wait_until(lambda: transport.receive(quiet), "the quiet one is answered")
        flood = f"{'head_rejected_messages_total'}.{Reason.FLOOD}"
        wait_until(lambda: control.head_telemetry.newest[0].get(flood), "the loud one is counted")


def test_a_frame_beyond_what_members_send_ends_the_connection(control: ControlPlane) -> None:
    with Sockets() as sockets:
        peer, watch = sockets.connect_watched(zmq.DEALER, control.endpoint)
        transport.send(peer, StatusRequest())
        wait_until(lambda: transport.receive(peer), "it is connected")
        peer.send(bytes(3 << 20))
        wait_until(watch.reconnected, "the connection is made anew")


# ----------------------------------------------------------------------------------- subscriptions


class Publisher:
    """An XPUB socket as the head has it, and how often it would send the current weights."""

    def __init__(self, sockets: Sockets, address: str) -> None:
        self.socket, self.endpoint = sockets.bind(zmq.XPUB, address, queue_messages=4)
        self.socket.xpub_verbose = True
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
        topic = b"\x00\x0f\x01" + b"a topic of mine"[:14]
        while waiting < 1 << 20 and select.select([], [stranger], [], 0.5)[1]:
            waiting += stranger.send(topic * 20)
        assert 0 < waiting < 1 << 16
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
