"""How many actors are wanted, by numbers worked by hand."""

import pytest

from learner.autoscaling import PERIOD_S, ActorsWanted, wanted_actors


@pytest.mark.parametrize(
    ("actors", "actors_waited", "learner_waited", "wanted"),
    [
        pytest.param(8, 0.0, 0.0, 8, id="nobody waits"),
        pytest.param(8, 0.0, 0.2, 10, id="the learner runs at 80%: 8 / 0.8"),
        pytest.param(3, 0.0, 0.25, 4, id="3 / 0.75"),
        pytest.param(8, 0.0, 0.9, 16, id="never more than twice as many at once"),
        pytest.param(8, 0.5, 0.0, 4, id="half of the actors' time is lost"),
        pytest.param(8, 0.3, 0.0, 6, id="8 · 0.7 = 5.6, rounded up"),
        pytest.param(10, 0.99, 0.0, 1, id="one stays"),
        pytest.param(8, 0.05, 0.0, 8, id="a little waiting is no reason"),
        pytest.param(8, 0.0, 0.08, 8, id="1 / 0.92 = 1.087: within the dead band"),
        pytest.param(8, 0.2, 0.4, 14, id="who waits more decides: 8 / 0.6 = 13.3"),
        pytest.param(8, 7.0, -3.0, 1, id="shares beyond 0 to 1 count as these"),
    ],
)
def test_the_wish_follows_who_waits(
    actors: int, actors_waited: float, learner_waited: float, wanted: int
) -> None:
    assert wanted_actors(actors, actors_waited, learner_waited) == wanted


def test_shares_are_taken_over_a_period_and_per_actor() -> None:
    signal = ActorsWanted()
    signal.observe(100.0, 4, 10.0, 50.0)
    assert signal.wanted == 4
    signal.observe(100.0 + PERIOD_S / 2, 4, 70.0, 50.0)
    assert signal.wanted == 4  # Too soon.
    # 4 actors waited 60 s of 30 s each: half of their time.
    signal.observe(100.0 + PERIOD_S, 4, 70.0, 50.0)
    assert signal.wanted == 2
    # Then the learner waited 15 s of 30 s.
    signal.observe(100.0 + 2 * PERIOD_S, 2, 70.0, 65.0)
    assert signal.wanted == 4


def test_without_actors_nothing_is_measured_and_the_wish_stays() -> None:
    signal = ActorsWanted()
    signal.observe(0.0, 0, 0.0, 0.0)
    signal.observe(500.0, 0, 0.0, 500.0)
    assert signal.wanted == 0
    signal.observe(501.0, 2, 0.0, 501.0)
    signal.observe(501.0 + PERIOD_S, 2, 0.0, 501.0)
    assert signal.wanted == 2
