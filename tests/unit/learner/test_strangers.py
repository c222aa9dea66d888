"""A head among strangers: what they can make it hold, send and write is bounded."""

import logging
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq

import learner.control
import learner.head
from common import codec, transport
from common.errors import MalformedMessage, Reason
from common.messages import Heartbeat, Leave, Message, Refused, Serving, StatusRequest
from learner.admission import (
    MAX_ENVS,
    MAX_LINES,
    MAX_MESSAGES,
    MAX_NAME,
    MAX_PATH,
    FloodGate,
    LineBudget,
)
from learner.control import ControlPlane
from learner.run_metrics import MAX_VALUE
from tests.contract.sockets import Sockets
from tests.head_with_peers import MANIFEST, Run, heartbeat, join, result
from tests.open_head import open_head
from tests.waiting import wait_until

LONG = "x" * (MAX_NAME + 1)
FLOOD = f"head_rejected_messages_total.{Reason.FLOOD}"


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


@pytest.mark.parametrize(
    "where", [(LONG, "m"), ("tcp://i:1", LONG), ("tcp://i:1", "m", "x" * (MAX_PATH + 1))]
)
def test_an_address_that_is_too_long_is_not_handed_on(where: tuple[str, ...]) -> None:
    run = Run()
    session = run.welcome(b"i", join("inference", machine="m")).session
    run.send(b"i", Serving(session, *where))
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
    run.welcome(b"e", join("evaluator", num_envs=2))  # It adds none to the run's.


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
        (([1.0], [1], [4]), Reason.RANGE),  # It has 4, numbered from 0.
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


def test_episodes_without_end_are_not_all_kept_for_the_next_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learner.head, "MAX_NEW_EPISODES", 2)
    run = Run()
    session = run.welcome(b"a", join()).session
    run.send(b"a", heartbeat(session, [1.0, 2.0, 3.0]))
    assert run.head.take_episodes() == ([1.0, 2.0], [1, 1])
    assert run.head.episodes == 3


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


def test_so_do_leaves_of_who_was_never_there(caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    with caplog.at_level(logging.INFO):
        for session in range(MAX_LINES + 1_000):
            run.send(b"s", Leave(session, "x\nactor 0 left: " * 100))
    assert 0 < len(caplog.messages) <= MAX_LINES
    assert not any("\n" in line for line in caplog.messages)
    assert max(map(len, caplog.messages)) < 400


def test_however_long_it_was_quiet_there_are_no_more_lines_at_once() -> None:
    lines = LineBudget()
    assert sum(lines.allows(1e9) for _ in range(2 * MAX_LINES)) == MAX_LINES


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
        open_head(context, "tcp://127.0.0.1:0", MANIFEST) as control,
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
        wait_until(lambda: control.head_telemetry.newest[0].get(FLOOD), "the loud one is counted")
        # In the next second it is heard again.
        transport.send(loud, join("admin"))
        wait_until(lambda: isinstance(transport.receive(loud), Refused), "the loud one is answered")


def messages_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[threading.Event, threading.Event]:
    """Events: the head has begun to take them; they are over, which is for the caller to set."""
    monkeypatch.setattr(learner.control, "MESSAGES_PER_TURN", math.inf)
    receive = transport.receive_frames
    begun, over = threading.Event(), threading.Event()

    def endless(socket: zmq.Socket[bytes]) -> list[codec.Frame] | None:
        if socket.type != zmq.ROUTER or over.is_set():
            return receive(socket)
        begun.set()
        return [b"peer", b"nonsense"]

    monkeypatch.setattr(transport, "receive_frames", endless)
    return begun, over


def test_records_are_written_while_messages_do_not_end(
    control: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, over = messages_without_end(monkeypatch)
    try:
        wait_until(lambda: control.head_telemetry.newest[0].get(FLOOD), "a record has the flood")
    finally:
        over.set()


def test_strangers_at_the_weights_are_cut_off_while_messages_do_not_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(learner.control, "TURN_S", math.inf)
    begun, over = messages_without_end(monkeypatch)
    address = f"ipc://{tmp_path_factory.mktemp('s') / 'head'}"
    with (
        zmq.Context() as context,
        open_head(context, address, MANIFEST),
        Sockets() as sockets,
    ):
        try:
            assert begun.wait(30.0)
            stranger, watch = sockets.connect_watched(zmq.SUB, f"{address}-weights")
            stranger.subscribe(b"a topic of my own")
            wait_until(watch.reconnected, "the stranger is cut off")
        finally:
            over.set()


def test_a_frame_beyond_what_members_send_ends_the_connection(control: ControlPlane) -> None:
    with Sockets() as sockets:
        peer, watch = sockets.connect_watched(zmq.DEALER, control.endpoint)
        transport.send(peer, StatusRequest())
        wait_until(lambda: transport.receive(peer), "it is connected")
        peer.send(bytes(3 << 20))
        wait_until(watch.reconnected, "the connection is made anew")
