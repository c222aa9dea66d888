"""Numbers of actors and their places on the ε ladder, when actors come and go."""

import pytest

from common.messages import Leave, Welcome
from tests.head_with_peers import Run, directive, join


def test_actors_get_the_lowest_free_numbers_and_stretches() -> None:
    run = Run()
    for peer in (b"a", b"b", b"c"):
        run.welcome(peer, join())
    assert run.places() == {0: (0, 4), 1: (4, 4), 2: (8, 4)}


def test_roles_are_numbered_apart_and_only_actors_stand_on_the_ladder() -> None:
    run = Run()
    evaluator = run.welcome(b"e", join("evaluator"))
    actor = run.welcome(b"a", join())
    assert (evaluator.number, actor.number, actor.first_env_index) == (0, 0, 0)
    assert run.head.ladder_size == 8


def test_what_a_leaving_actor_had_is_given_to_the_next() -> None:
    run = Run()
    sessions = [run.welcome(peer, join()).session for peer in (b"a", b"b", b"c")]
    run.send(b"b", Leave(sessions[1], "stopped"))
    assert run.places() == {0: (0, 4), 2: (8, 4)}
    newcomer = run.welcome(b"d", join())
    assert (newcomer.number, newcomer.first_env_index) == (1, 4)
    assert newcomer.session not in sessions


@pytest.mark.parametrize(
    ("size", "place"),
    [(1, 4), (4, 4), (5, 12)],  # Too wide for the gap of four: behind the others.
)
def test_a_stretch_is_the_lowest_gap_that_is_wide_enough(size: int, place: int) -> None:
    run = Run()
    sessions = [run.welcome(peer, join()).session for peer in (b"a", b"b", b"c")]
    run.send(b"b", Leave(sessions[1], "stopped"))
    assert run.welcome(b"d", join(num_envs=size)).first_env_index == place


def test_the_ladder_is_as_long_as_expected_or_as_those_who_came() -> None:
    """2 actors × 4 environments are expected. A third makes it 12; without it, 8 again."""
    run = Run()
    a = run.welcome(b"a", join()).session
    b = run.welcome(b"b", join()).session
    assert run.head.ladder_size == 8
    [(peer, third)] = run.send(b"c", join(pid=9))
    assert isinstance(third, Welcome)
    assert (peer, third.ladder_size) == (b"c", 12)
    # Everybody learns of the longer ladder with the next tick, and of the shorter one.
    c = third.session
    assert sorted(run.head.tick(0.5)) == [
        (b"a", directive(a, ladder_size=12)),
        (b"b", directive(b, ladder_size=12)),
        (b"c", directive(c, ladder_size=12)),
        (b"replay", directive(100, ladder_size=12, replay="")),
    ]
    assert run.send(b"c", Leave(c, "stopped")) == []
    assert sorted(run.head.tick(1.5)) == [
        (b"a", directive(a)), (b"b", directive(b)), (b"replay", directive(100, replay=""))
    ]  # fmt: skip
    assert run.head.tick(2.5) == []


def test_actors_that_come_by_the_hundred_cost_a_reply_each() -> None:
    """And not one to everybody who is there already, each time, although each makes the ladder
    longer: a thousand would be half a million."""
    run = Run()
    replies = [run.send(b"%d" % i, join(pid=i + 10)) for i in range(300)]
    assert [len(to_one) for to_one in replies] == [1] * 300
    told = run.head.tick(0.5)
    assert len(told) == 301
    assert {m.ladder_size for _, m in told} == {1_200}  # type: ignore[attr-defined]
    assert run.head.tick(1.5) == []


def test_who_comes_and_goes_on_the_ladder_as_it_is_disturbs_nobody() -> None:
    run = Run()
    run.welcome(b"a", join())
    [(peer, reply)] = run.send(b"b", join(pid=9))
    assert peer == b"b"
    assert isinstance(reply, Welcome)
    assert run.send(b"b", Leave(reply.session, "stopped")) == []


@pytest.mark.parametrize(("preferred", "number"), [(3, 3), (0, 1), (-1, 1), (-7, 1)])
def test_a_preferred_number_is_given_if_it_is_free(preferred: int, number: int) -> None:
    run = Run()
    assert run.welcome(b"a", join()).number == 0
    assert run.welcome(b"b", join(preferred_number=preferred)).number == number
