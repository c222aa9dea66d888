"""The head's membership: messages in, exact replies out."""

import math

import pytest

import learner.head
from common.membership import HEAD_SILENCE_WARNING_S
from common.messages import Ack, Join, Leave, Message, Refused, Serving, Welcome
from learner.head import SILENCE_S
from learner.members import ANSWER_PERIOD_S
from tests.head_with_peers import MANIFEST, REPLAY, Run, directive, heartbeat, join, result

# ------------------------------------------------------------------------------------------ joining


def test_a_welcome_holds_all_that_a_process_must_know() -> None:
    run = Run()
    assert run.send(b"a", join()) == [
        (
            b"a",
            Welcome(
                session=101,
                number=0,
                epoch=0,
                incarnation=0,
                first_env_index=0,
                ladder_size=8,
                manifest=MANIFEST.to_plain(),
                weights_endpoint="tcp://head:5551",
                replay_endpoint=REPLAY,
            ),
        )
    ]


@pytest.mark.parametrize("role", ["actor", "evaluator"])
def test_a_join_waits_until_a_replay_server_serves(role: str) -> None:
    run = Run(serving=False)
    assert run.send(b"early", join(role, pid=5)) == []
    assert run.head.members == {}
    replay = run.welcome(b"replay", join("replay_server"))
    assert run.send(b"second", join(role, pid=6)) == []  # It has joined, but does not serve yet.
    replies = run.send(b"replay", Serving(replay.session, REPLAY))
    welcomed = [(peer, m.number) for peer, m in replies if isinstance(m, Welcome)]
    assert welcomed == [(b"early", 0), (b"second", 1)]
    for _, message in replies:
        if isinstance(message, Welcome):
            assert message.replay_endpoint == (REPLAY if role == "actor" else "")


def test_a_join_sent_twice_while_waiting_is_taken_in_once() -> None:
    run = Run(serving=False)
    for _ in range(3):
        assert run.send(b"early", join(pid=5)) == []
    run.send(b"replay", Serving(run.welcome(b"replay", join("replay_server")).session, REPLAY))
    assert run.places() == {0: (0, 4)}


def test_who_waited_is_taken_in_once_however_often_the_server_says_where_it_serves() -> None:
    run = Run(serving=False)
    run.send(b"early", join(pid=5))
    replay = run.welcome(b"replay", join("replay_server"))
    for _ in range(2):
        replies = run.send(b"replay", Serving(replay.session, REPLAY))
    assert not any(isinstance(message, Welcome) for _, message in replies)
    assert run.places() == {0: (0, 4)}


def test_a_crowd_does_not_wait_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner.head, "MAX_WAITING", 2)
    run = Run(serving=False)
    for peer in (b"a", b"b"):
        assert run.send(peer, join()) == []
    assert run.send(b"c", join()) == [
        (b"c", Refused("too many processes wait for a replay server"))
    ]
    assert run.send(b"a", join()) == []  # It waits already, and may ask again.


def test_a_join_waits_again_once_the_replay_server_has_gone() -> None:
    run = Run()
    run.send(b"replay", Leave(100, "stopped"))
    assert run.replay_endpoints == []
    assert run.send(b"a", join()) == []


def test_everyone_learns_where_a_new_replay_server_serves() -> None:
    run = Run()
    actor = run.welcome(b"a", join())
    assert run.send(b"replay", Leave(100, "stopped")) == [(b"a", directive(actor.session))]
    replay = run.welcome(b"replay2", join("replay_server"))
    elsewhere = "tcp://replay:7001"
    replies = run.send(b"replay2", Serving(replay.session, elsewhere))
    assert (b"a", directive(actor.session, replay=elsewhere)) in replies


def test_a_second_replay_server_is_refused_while_there_is_one() -> None:
    run = Run()
    [(peer, reply)] = run.send(b"other", join("replay_server", pid=77))
    assert peer == b"other"
    assert isinstance(reply, Refused)
    assert "has its replay server" in reply.reason
    assert len(run.head.of_role("replay_server")) == 1
    assert run.replay_endpoints == [REPLAY]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            join("critic"),
            "role 'critic' is unknown; a run has actor, evaluator, inference, relay, replay_server",
        ),
        (join(num_envs=-1), "-1 environments are not between 0 and 100000"),
        (join(num_envs=100_001), "100001 environments are not between 0 and 100000"),
        (Ack(1, 1), "a head does not take 'ack'"),
    ],
)
def test_what_a_head_does_not_take_is_refused_with_the_reason(
    message: Message, reason: str
) -> None:
    run = Run()
    assert run.send(b"x", message) == [(b"x", Refused(reason))]
    assert len(run.head.members) == 1


# -------------------------------------------------------------------- those who died and came again


def test_a_successor_takes_over_the_place_of_the_one_that_died() -> None:
    run = Run()
    run.welcome(b"a", join())
    dead = run.welcome(b"b", join())
    successor = run.welcome(b"new", join(preferred_number=1, take_over=True))
    assert (successor.number, successor.first_env_index) == (1, 4)
    assert (dead.incarnation, successor.incarnation) == (0, 1)  # It draws other random numbers.
    assert successor.session != dead.session
    assert run.places() == {0: (0, 4), 1: (4, 4)}
    # The dead one is told so, should it have been alive after all.
    assert run.send(b"b", heartbeat(dead.session)) == [
        (b"b", directive(dead.session, "rejoin", replay=""))
    ]


def test_on_a_host_that_never_has_two_a_successor_needs_no_number() -> None:
    run = Run()
    dead = [run.welcome(peer, join(host=peer.decode())) for peer in (b"a", b"b", b"c")]
    successor = run.welcome(b"new", join(take_over=True, host="b"))
    assert (successor.number, successor.incarnation) == (1, 1)
    assert dead[1].session not in run.head.members
    assert len(run.head.of_role("actor")) == 3
    # Also when two are gone: each goes on with its own number, for its files have that.
    successors = [
        run.welcome(b"2" + p, join(take_over=True, host=p.decode())) for p in (b"c", b"a")
    ]
    assert [s.number for s in successors] == [2, 0]
    # Should there be two all the same, one takes the place of both.
    assert run.welcome(b"3a", join(host="a")).number == 3
    assert run.welcome(b"4a", join(take_over=True, host="a")).number == 0
    assert len(run.head.of_role("actor")) == 3


@pytest.mark.parametrize(
    "stranger",
    [
        join(take_over=True, host="host-b"),
        join("evaluator", take_over=True),
        join(preferred_number=0, take_over=True, host="host-b"),
        join("evaluator", preferred_number=0, take_over=True),
        join(preferred_number=0, take_over=False),
        join(preferred_number=1, take_over=True),
    ],
)
def test_nobody_else_takes_over(stranger: Join) -> None:
    run = Run()
    actor = run.welcome(b"a", join())
    run.welcome(b"new", stranger)
    assert actor.session in run.head.members


def test_a_process_that_joins_again_replaces_itself() -> None:
    run = Run()
    first = run.welcome(b"a", join(token=5))
    again = run.welcome(b"another address", join(token=5))
    assert again.session != first.session
    assert run.places() == {0: (0, 4)}


def test_a_process_that_waits_and_asks_again_is_taken_in_once() -> None:
    run = Run(serving=False)
    assert run.send(b"lost", join(token=5)) == []
    assert run.send(b"anew", join(token=5)) == []
    replay = run.welcome(b"replay", join("replay_server"))
    replies = run.send(b"replay", Serving(replay.session, REPLAY))
    assert [peer for peer, m in replies if isinstance(m, Welcome)] == [b"anew"]
    assert run.places() == {0: (0, 4)}


def test_threads_of_one_process_are_members_of_their_own() -> None:
    run = Run()
    run.welcome(b"a", join(pid=5))
    run.welcome(b"b", join(pid=5))
    assert run.places() == {0: (0, 4), 1: (4, 4)}


def test_a_replay_server_that_was_started_again_is_taken_in() -> None:
    run = Run()
    actor = run.welcome(b"a", join())
    replay = run.welcome(b"new", join("replay_server", preferred_number=0, take_over=True))
    assert run.replay_endpoints == []
    run.send(b"new", Serving(replay.session, REPLAY))
    assert run.replay_endpoints == [REPLAY]
    assert actor.session in run.head.members


# ----------------------------------------------------------------------------- silence and unknowns


def test_who_is_silent_for_too_long_is_gone_and_counted() -> None:
    run = Run()
    actors = [run.welcome(peer, join()).session for peer in (b"a", b"b", b"c")]
    run.now_s = 10.0
    for peer, session in ((b"a", actors[0]), (b"b", actors[1]), (b"replay", 100)):
        run.send(peer, heartbeat(session))
    assert run.head.tick(SILENCE_S) == []  # Silent for exactly the limit: still there.
    # The third actor falls silent: the ladder is 8 long again, and all who are left hear of it when
    # they speak next.
    assert run.head.tick(SILENCE_S + 0.1) == []
    assert run.send(b"a", heartbeat(actors[0])) == [(b"a", directive(actors[0]))]
    assert run.send(b"replay", heartbeat(100)) == [(b"replay", directive(100, replay=""))]
    assert run.head.lost == {"actor": 1}
    run.head.tick(10.0 + SILENCE_S + 0.1)
    assert run.head.members == {}
    assert run.head.lost == {"actor": 3, "replay_server": 1}


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("actor", heartbeat(101)),
        ("relay", Serving(101, "tcp://relay:1")),
        ("evaluator", result(101, [1.0])),
    ],
)
def test_whatever_a_member_says_shows_that_it_is_there(role: str, message: Message) -> None:
    run = Run()
    session = run.welcome(b"m", join(role)).session
    run.now_s = 10.0
    run.send(b"m", message)
    run.head.tick(SILENCE_S + 0.1)
    assert list(run.head.members) == [session]


def test_who_was_cut_off_and_comes_back_is_not_counted_twice() -> None:
    blocked = "actor_blocked_seconds_total"
    run = Run()
    first = run.welcome(b"a", join(token=5)).session
    run.send(b"a", heartbeat(first, **{blocked: 400.0}))
    run.head.tick(SILENCE_S + 0.1)
    replay = run.welcome(b"replay", join("replay_server", take_over=True))
    run.send(b"replay", Serving(replay.session, REPLAY))
    again = run.welcome(b"a", join(token=5)).session
    run.send(b"a", heartbeat(again, **{blocked: 403.0}))
    assert run.head.metrics.values() == {blocked: 403.0}


@pytest.mark.parametrize("how", ["in its place", "after it fell silent"])
def test_what_a_replay_server_restores_is_not_counted_twice(how: str) -> None:
    inserted = "replay_inserted_transitions_total"
    run = Run()
    run.send(b"replay", heartbeat(100, **{inserted: 500_000.0}))
    if how == "after it fell silent":
        run.head.tick(SILENCE_S + 0.1)
    run.welcome(b"new", join("replay_server", preferred_number=0, take_over=True))
    run.send(b"new", heartbeat(101, **{inserted: 500_040.0}))
    assert run.head.metrics.values() == {inserted: 500_040.0}


def test_a_heartbeat_is_answered_with_what_the_head_wants() -> None:
    run = Run()
    session = run.welcome(b"a", join()).session
    assert run.send(b"a", heartbeat(session)) == [(b"a", directive(session))]


def test_a_member_that_knows_all_is_answered_now_and_then() -> None:
    run = Run()
    session = run.welcome(b"a", join()).session
    answers = []
    for second in range(9):
        run.now_s = float(second)
        answers.append(run.send(b"a", heartbeat(session)) == [(b"a", directive(session))])
    assert answers == [second % ANSWER_PERIOD_S == 0 for second in range(9)]
    # Long before it takes the head for silent.
    assert 2 * ANSWER_PERIOD_S < HEAD_SILENCE_WARNING_S


@pytest.mark.parametrize("what", ["another joins", "another leaves", "stop", "its own connection"])
def test_after_any_change_the_next_heartbeat_is_answered(what: str) -> None:
    """What was sent to all at once may have been lost."""
    run = Run()
    session, other = run.welcome(b"a", join()).session, run.welcome(b"b", join()).session
    peer = b"a"
    assert run.send(peer, heartbeat(session)) != []
    assert run.send(peer, heartbeat(session)) == []
    if what == "another joins":
        run.welcome(b"c", join())
    elif what == "another leaves":
        run.send(b"b", Leave(other, "stopped"))
    elif what == "stop":
        run.head.set_run_state("stop")
    else:
        peer = b"a2"
    ((answered, _),) = run.send(peer, heartbeat(session))
    assert answered == peer
    assert run.send(peer, heartbeat(session)) == []


def test_a_member_that_reconnected_is_answered_where_it_is_now() -> None:
    run = Run()
    session = run.welcome(b"a", join()).session
    run.send(b"a2", heartbeat(session))
    assert (b"a2", directive(session, "stop")) in run.head.set_run_state("stop")


@pytest.mark.parametrize(
    "message", [heartbeat(55), result(55, [1.0]), Serving(55, "tcp://nowhere:1")]
)
def test_an_unknown_session_is_told_to_join_again(message: Message) -> None:
    run = Run()
    assert run.send(b"x", message) == [(b"x", directive(55, "rejoin", replay=""))]
    assert run.replay_endpoints == [REPLAY]
    assert run.head.take_evaluations() == []


def test_leaving_twice_changes_nothing() -> None:
    run = Run()
    session = run.welcome(b"a", join()).session
    run.send(b"a", Leave(session, "stopped"))
    assert run.send(b"a", Leave(session, "stopped")) == []


def test_stop_is_said_to_all_at_once_and_to_each_heartbeat() -> None:
    run = Run()
    a = run.welcome(b"a", join()).session
    e = run.welcome(b"e", join("evaluator")).session
    assert run.head.set_run_state("stop") == [
        (b"replay", directive(100, "stop", replay="")),
        (b"a", directive(a, "stop")),
        (b"e", directive(e, "stop", replay="")),
    ]
    assert run.send(b"a", heartbeat(a)) == [(b"a", directive(a, "stop"))]


# ---------------------------------------------------------------------------------------- telemetry


def test_returns_and_counters_ride_on_heartbeats() -> None:
    run = Run()
    session = run.welcome(b"a", join()).session
    run.send(b"a", heartbeat(session, [1.0, 2.0], actor_env_steps_total=40.0))
    run.send(b"a", heartbeat(session, [math.nan, 3.0, math.inf], actor_env_steps_total=90.0))
    assert list(run.head.recent_returns) == [1.0, 2.0, 3.0]
    assert run.head.episodes == 3
    assert run.head.members[session].values == {"actor_env_steps_total": 90.0}


def test_evaluations_are_handed_over_once() -> None:
    run = Run()
    session = run.welcome(b"e", join("evaluator")).session
    first, second = result(session, [1.0]), result(session, [2.0, 3.0])
    assert run.send(b"e", first) == []
    run.send(b"e", second)
    assert run.head.take_evaluations() == [first, second]
    assert run.head.take_evaluations() == []


def test_of_several_evaluators_the_one_that_came_last_is_followed() -> None:
    run = Run()
    first, last = (run.welcome(peer, join("evaluator")).session for peer in (b"e", b"f"))
    assert run.head.evaluator == last
    run.send(b"f", Leave(last, "stopped"))
    assert run.head.evaluator == first


def test_only_an_evaluators_results_count() -> None:
    run = Run()
    session = run.welcome(b"a", join()).session
    run.send(b"a", result(session, [9999.0]))
    assert run.head.take_evaluations() == []


@pytest.mark.parametrize("returns", [[], [math.nan], [5.0, math.inf]])
def test_a_score_that_is_no_number_is_not_taken(returns: list[float]) -> None:
    """A best score of NaN would never be beaten, one of infinity neither."""
    run = Run()
    session = run.welcome(b"e", join("evaluator")).session
    run.send(b"e", result(session, returns))
    assert run.head.take_evaluations() == []
