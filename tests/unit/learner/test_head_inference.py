"""Where an actor's Q-values come from: the inference process of its machine, if there is one."""

import pytest

from common.messages import Directive, Leave, Message, Serving
from learner.head import SILENCE_S
from tests.head_with_peers import REPLAY, WEIGHTS, Run, directive, heartbeat, join

HERE, THERE = "tcp://127.0.0.1:6000", "tcp://127.0.0.1:6001"


def serve(run: Run, peer: bytes, machine: str, endpoint: str) -> int:
    """An inference process joins and says where it listens; its session."""
    session = run.welcome(peer, join("inference", machine=machine)).session
    run.send(peer, Serving(session, endpoint, machine))
    return session


def told(replies: list[tuple[bytes, Message]], peer: bytes) -> list[str]:
    """The inference endpoints that a peer hears of."""
    return [m.inference_endpoint for p, m in replies if p == peer and isinstance(m, Directive)]


def test_a_member_hears_of_the_inference_process_on_its_machine_alone() -> None:
    run = Run()
    serve(run, b"i", "here", HERE)
    serve(run, b"j", "there", THERE)
    assert run.welcome(b"a", join(machine="here")).inference_endpoint == HERE
    assert run.welcome(b"b", join(machine="there")).inference_endpoint == THERE
    assert run.welcome(b"c", join(machine="elsewhere")).inference_endpoint == ""
    assert {m.number for m in run.head.of_role("inference")} == {0, 1}


def test_one_that_joined_but_does_not_serve_yet_is_nobodys() -> None:
    run = Run()
    session = run.welcome(b"i", join("inference", machine="here")).session
    actor = run.welcome(b"a", join(machine="here"))
    assert actor.inference_endpoint == ""
    replies = run.send(b"i", Serving(session, HERE, "here"))
    assert told(replies, b"a") == [HERE]
    assert told(run.send(b"a", heartbeat(actor.session)), b"a") == [HERE]


def test_its_endpoint_is_not_taken_for_a_replay_servers() -> None:
    run = Run()
    serve(run, b"i", "here", HERE)
    assert run.replay_endpoints == [REPLAY]
    waiting = Run(serving=False)
    # It has to wait for a replay server as everybody else, and brings nobody else in.
    for peer, role in ((b"i", "inference"), (b"a", "actor")):
        assert waiting.send(peer, join(role, machine="here")) == []
    assert waiting.head.members == {}


@pytest.mark.parametrize("how", ["leaves", "falls silent"])
def test_all_are_told_when_it_goes(how: str) -> None:
    run = Run()
    inference = serve(run, b"i", "here", HERE)
    actor = run.welcome(b"a", join(machine="here")).session
    if how == "leaves":
        replies = run.send(b"i", Leave(inference, "stopped"))
    else:
        run.now_s = 1.0
        run.send(b"a", heartbeat(actor))
        replies = run.head.tick(SILENCE_S + 0.5)
    assert told(replies, b"a") == [""]
    assert run.places() == {0: (0, 4)}


def test_one_that_was_started_in_place_of_a_dead_one_is_who_serves_now() -> None:
    run = Run()
    serve(run, b"i", "here", HERE)
    run.welcome(b"a", join(machine="here"))
    # The launcher says which one it replaces; who starts it again by hand does not.
    by_launcher = join("inference", machine="here", preferred_number=0, take_over=True)
    replies = run.send(b"new", by_launcher)
    assert told(replies, b"a") == [""]
    assert len(run.head.of_role("inference")) == 1
    serve(run, b"by hand", "here", THERE)
    assert run.welcome(b"b", join(machine="here")).inference_endpoint == THERE
    assert len(run.head.of_role("inference")) == 2


# ------------------------------------------------------------------------------------------- relays

RELAY = "tcp://127.0.0.1:9001"


def test_those_who_act_on_a_relays_host_get_their_weights_from_it() -> None:
    run = Run()
    before = run.welcome(b"a", join(machine="m1"))
    relay = run.welcome(b"relay", join("relay", machine="m1"))
    assert before.relay_endpoint == relay.relay_endpoint == ""
    told = dict(run.send(b"relay", Serving(relay.session, RELAY, "m1")))
    assert {peer: m.relay_endpoint for peer, m in told.items() if isinstance(m, Directive)} == {
        b"a": RELAY, b"relay": "", b"replay": ""
    }  # fmt: skip
    for role, machine, endpoint in (
        ("actor", "m1", RELAY),
        ("inference", "m1", RELAY),
        ("evaluator", "m1", ""),  # It plays other versions.
        ("actor", "m2", ""),
        ("actor", "", ""),
    ):
        welcome = run.welcome(role.encode() + machine.encode(), join(role, machine=machine))
        assert (welcome.weights_endpoint, welcome.relay_endpoint) == (WEIGHTS, endpoint)


@pytest.mark.parametrize("how", ["leaves", "falls silent"])
def test_when_a_relay_is_gone_weights_come_from_the_head_again(how: str) -> None:
    run = Run()
    actor = run.welcome(b"a", join(machine="m1"))
    relay = run.welcome(b"relay", join("relay", machine="m1"))
    run.send(b"relay", Serving(relay.session, RELAY, "m1"))
    if how == "leaves":
        told = dict(run.send(b"relay", Leave(relay.session, "stopped")))
    else:
        run.now_s = 1.0
        run.send(b"a", heartbeat(actor.session))
        told = dict(run.head.tick(SILENCE_S + 0.5))
    assert told[b"a"] == directive(actor.session)
