"""Several replay servers: who is taken in, and whose experience goes where."""

from collections import Counter

import pytest

from common.config import Config
from common.manifest import Manifest
from common.messages import Directive, Leave, Refused, Serving
from common.spec import EnvSpec
from learner.head import SILENCE_S
from tests.head_with_peers import Run, heartbeat, join

TWO = Manifest(
    "r1",
    Config(actors=4, envs_per_actor=4, block_length=8, replay_servers=2),
    EnvSpec((4,), "<f4", 2),
)
A, B = "tcp://a:7000", "tcp://b:7000"


def run_of_two() -> Run:
    run = Run(TWO, serving=False)
    for peer, host, endpoint in ((b"replay-0", "host-0", A), (b"replay-1", "host-1", B)):
        session = run.welcome(peer, join("replay_server", host=host)).session
        run.send(peer, Serving(session, endpoint))
    return run


def endpoints(run: Run) -> dict[bytes, str]:
    """Where each actor is told to write, by peer."""
    told = {}
    for member in list(run.head.members.values()):
        if member.role == "actor":
            member.answered_revision = -1
            [(peer, directive)] = run.send(member.peer, heartbeat(member.session))
            assert isinstance(directive, Directive)
            told[peer] = directive.replay_endpoint
    return told


def test_as_many_are_taken_in_as_the_run_has() -> None:
    run = run_of_two()
    assert [m.number for m in run.head.of_role("replay_server")] == [0, 1]
    [(_, third)] = run.send(b"replay-2", join("replay_server", pid=9))
    assert isinstance(third, Refused)
    assert "has its 2 replay servers" in third.reason
    [(_, odd)] = run.send(b"replay-2", join("replay_server", pid=9, preferred_number=2))
    assert isinstance(odd, Refused)
    assert "no number 2" in odd.reason


def test_actors_are_taken_in_as_soon_as_one_serves() -> None:
    run = Run(TWO, serving=False)
    assert run.send(b"a", join()) == []
    session = run.welcome(b"replay-0", join("replay_server")).session
    replies = run.send(b"replay-0", Serving(session, A))
    assert b"a" in [peer for peer, _ in replies]


def test_actors_are_spread_evenly() -> None:
    run = run_of_two()
    told = [run.welcome(b"%d" % n, join()).replay_endpoint for n in range(4)]
    assert Counter(told) == {A: 2, B: 2}


def test_when_one_is_gone_its_actors_go_to_the_other_and_half_of_all_come_back() -> None:
    run = run_of_two()
    for n in range(4):
        run.welcome(b"%d" % n, join())
    gone = run.head.of_role("replay_server")[1].session
    run.send(b"replay-1", Leave(gone, "stopped"))
    assert set(endpoints(run).values()) == {A}
    session = run.welcome(b"replay-1", join("replay_server")).session
    run.send(b"replay-1", Serving(session, "tcp://b:7001"))
    assert Counter(endpoints(run).values()) == {A: 2, "tcp://b:7001": 2}


@pytest.mark.parametrize("number", [1, -1], ids=["its number", "its host"])
def test_while_one_is_started_again_its_actors_wait_for_it(number: int) -> None:
    run = run_of_two()
    for n in range(4):
        run.welcome(b"%d" % n, join())
    before = endpoints(run)
    again = join("replay_server", preferred_number=number, take_over=True, host="host-1")
    session = run.welcome(b"replay-1b", again).session
    assert endpoints(run) == before
    run.send(b"replay-1b", Serving(session, B))
    assert endpoints(run) == before


def test_one_that_falls_silent_for_too_long_is_gone() -> None:
    run = run_of_two()
    actors = {b"%d" % n: run.welcome(b"%d" % n, join()).session for n in range(2)}
    run.now_s = SILENCE_S
    for peer, session in actors.items():
        run.send(peer, heartbeat(session))
    run.send(b"replay-0", heartbeat(run.head.of_role("replay_server")[0].session))
    run.head.tick(SILENCE_S + 0.1)
    assert set(endpoints(run).values()) == {A}
    assert list(run.head.replay_servers) == [0]


def test_when_all_are_gone_actors_stay_where_they_are() -> None:
    run = run_of_two()
    assert run.welcome(b"a", join()).replay_endpoint == A
    for member in run.head.of_role("replay_server"):
        run.send(member.peer, Leave(member.session, "stopped"))
    assert endpoints(run) == {b"a": B}  # The one that was there last.
