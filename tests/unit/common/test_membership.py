"""A process's place in a run, against a head whose every word is ours."""

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from common import transport
from common.config import Config
from common.errors import ConfigError, HeadUnreachable
from common.manifest import Manifest
from common.membership import Episode, Membership
from common.messages import Directive, Heartbeat, Join, Message, Welcome
from common.metrics import Telemetry
from common.spec import EnvSpec
from tests.waiting import wait_until

MANIFEST = Manifest("r1", Config(), EnvSpec((4,), "<f4", 2))


class OurHead:
    """Says what it is told to say, to the one process that joins it."""

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self._socket = socket
        self._peer = b""
        self.heard: list[Message] = []

    def say(self, message: Message) -> None:
        assert transport.send(self._socket, message, prefix=(self._peer,))

    def welcome(self, session: int) -> None:
        self.say(
            Welcome(
                session, 0, 0, 0, 0, 1, MANIFEST.to_plain(), "inproc://weights", "inproc://replay"
            )
        )

    def listen(self) -> None:
        """Take what has come."""
        while (frames := transport.receive_frames(self._socket)) is not None:
            self._peer = bytes(frames[0])
            self.heard.append(transport.codec.decode(frames[1:]))

    def count(self, kind: type[Message]) -> int:
        self.listen()
        return sum(isinstance(message, kind) for message in self.heard)


@pytest.fixture
def head_and_member() -> Iterator[tuple[OurHead, Membership]]:
    """Session 1 is there."""
    with zmq.Context() as context:
        socket, address = transport.bind(context, zmq.ROUTER, "inproc://head")
        head, member = OurHead(socket), Membership(context, address, "actor")
        try:
            joining = threading.Thread(
                target=member.join, args=(itertools.count().__next__, threading.Event(), 1e9)
            )
            joining.start()
            wait_until(lambda: head.count(Join), "the process joins")
            head.welcome(session=1)
            joining.join()
            yield head, member
        finally:
            member.leave("stopped")
            socket.close()


class Polls:
    """The member's loop: every call is 0.1 s later."""

    def __init__(self, member: Membership, now_s: float = 0.0) -> None:
        self._member = member
        self._now_s = now_s

    def __call__(self, times: int = 1) -> None:
        for _ in range(times):
            self._now_s += 0.1
            self._member.poll(self._now_s, Telemetry(dict))


def test_whoever_is_not_known_joins_once_however_often_it_is_told(
    head_and_member: tuple[OurHead, Membership],
) -> None:
    head, member = head_and_member
    poll = Polls(member)
    for _ in range(3):
        head.say(Directive(1, "rejoin", 1))
    poll()
    assert head.count(Join) == 2


def test_a_late_answer_to_the_old_session_does_not_end_the_new_one(
    head_and_member: tuple[OurHead, Membership],
) -> None:
    """A head that was restarted gets several messages of the old session, and answers each."""
    head, member = head_and_member
    poll = Polls(member)
    head.say(Directive(1, "rejoin", 1))
    poll()
    head.welcome(session=2)
    head.say(Directive(1, "rejoin", 1))
    head.say(Directive(1, "stop", 1))
    poll(20)
    assert (member.joins, member.welcome.session) == (2, 2)
    assert head.count(Join) == 2
    assert not member.stop_requested
    assert [m.session for m in head.heard if isinstance(m, Heartbeat)][-1] == 2

    head.say(Directive(2, "rejoin", 1))
    poll()
    assert head.count(Join) == 3


def test_a_silent_head_is_a_line_in_the_log_when_it_goes_and_when_it_is_back(
    head_and_member: tuple[OurHead, Membership], caplog: pytest.LogCaptureFixture
) -> None:
    head, member = head_and_member
    poll = Polls(member)
    caplog.set_level("INFO", logger="common.membership")
    head.say(Directive(1, "run", 1))
    poll()  # At 0.1 s.
    poll(200)
    head.say(Directive(1, "run", 1))
    poll(20)  # The first of them is at 20.2 s.
    gone, back = (r.getMessage() for r in caplog.records if "word from the head" in r.message)
    assert gone.startswith("no word from the head at inproc://head for 1")
    assert back == "word from the head at inproc://head again after 20 s"


@pytest.mark.parametrize("timeout_s", [float("nan"), -1.0])
def test_a_wait_that_is_no_number_of_seconds_is_refused(
    head_and_member: tuple[OurHead, Membership], timeout_s: float
) -> None:
    _, member = head_and_member
    with pytest.raises(ConfigError, match=f"--join-timeout {timeout_s}: must be a number"):
        member.join(time.monotonic, threading.Event(), timeout_s)


def test_a_process_that_was_stopped_for_an_hour_has_not_been_listening(
    head_and_member: tuple[OurHead, Membership],
) -> None:
    head, member = head_and_member
    telemetry = Telemetry(dict)
    beats = head.count(Heartbeat)
    for now_s in (1e6, 1e6 + 3_600.0):
        member.poll(now_s, telemetry)
    assert head.count(Heartbeat) == beats + 2
    later_s = 1e6 + 3_600.0
    for second in range(400):
        member.poll(later_s + second, telemetry)
    with pytest.raises(HeadUnreachable):
        Polls(member, later_s + 400.0)(1_500)


def test_while_the_loop_is_silent_another_thread_says_that_the_process_lives(
    head_and_member: tuple[OurHead, Membership],
) -> None:
    head, member = head_and_member
    poll = Polls(member)
    poll()  # The heartbeat of 0.1 s; the next is due at 1.1 s.
    member.record_episodes([Episode(3.0, 5, 0)])

    def beside_the_loop() -> None:
        for tenth in range(31):
            member.say_busy(0.1 * tenth)

    thread = threading.Thread(target=beside_the_loop)
    thread.start()
    thread.join()
    # At 1.1 and 2.1 s: once a period, however often it is called.
    assert head.count(Heartbeat) == 3
    poll(30)
    head.listen()
    beats = [message for message in head.heard if isinstance(message, Heartbeat)]
    assert [b.episode_return.tolist() for b in beats[:4]] == [[], [], [], [3.0]]
    assert {b.session for b in beats} == {1}


def test_nobody_speaks_for_a_loop_that_is_joining_again(
    head_and_member: tuple[OurHead, Membership],
) -> None:
    head, member = head_and_member
    head.say(Directive(1, "rejoin", 1))
    Polls(member)()
    before = head.count(Heartbeat)
    member.say_busy(10.0)
    assert head.count(Heartbeat) == before


def test_the_heads_wishes_are_those_of_its_newest_word(
    head_and_member: tuple[OurHead, Membership],
) -> None:
    head, member = head_and_member
    poll = Polls(member)
    head.say(Directive(1, "run", 24, "inproc://a"))
    poll()
    assert (member.ladder_size, member.replay_endpoint) == (24, "inproc://a")
    head.say(Directive(1, "stop", 25))
    poll()
    assert (member.ladder_size, member.replay_endpoint) == (25, "inproc://a")
    assert member.stop_requested
