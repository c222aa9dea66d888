"""The number that autoscalers follow."""

import pytest

from learner.actors_wanted import SHORTEST_S, WINDOW_S, ActorsWanted


def after(seconds: int, actors: int, blocked: float, waited: float) -> float | None:
    """What is wanted when each actor was blocked, and the learner waited, that much of the time."""
    wanted = ActorsWanted()
    answer = None
    for s in range(seconds + 1):
        answer = wanted.see(100.0 + s, actors, blocked * actors * s, waited * s)
    return answer


@pytest.mark.parametrize(
    ("actors", "blocked", "waited", "expected"),
    [
        (8, 0.0, 0.0, 8.0),  # Nobody waits.
        (8, 0.5, 0.0, 4.0),  # Half of them would do.
        (8, 0.0, 0.5, 16.0),  # The learner could take twice as much.
        (8, 0.25, 0.25, 8.0),  # Both wait, in turn: that is no reason for more or fewer.
        (8, 1.0, 0.0, 2.0),  # 8 · (1 − 0.75)
        (8, 0.0, 1.0, 32.0),  # 8 / (1 − 0.75)
        (1, 0.75, 0.0, 1.0),  # A quarter of an actor cannot be had.
    ],
)
def test_the_side_that_waits_says_how_many(
    actors: int, blocked: float, waited: float, expected: float
) -> None:
    assert after(30, actors, blocked, waited) == pytest.approx(expected)


def test_too_little_seen_says_nothing() -> None:
    assert after(int(SHORTEST_S) - 1, 8, 0.0, 0.5) is None
    assert after(30, 0, 0.0, 1.0) is None


def test_what_is_long_past_is_forgotten() -> None:
    wanted = ActorsWanted()
    blocked_s, answer = 0.0, None
    for s in range(2 * int(WINDOW_S) + 1):
        # For the first minute both actors were blocked half of the time, in the second never.
        blocked_s += 1.0 if s <= WINDOW_S else 0.0
        answer = wanted.see(float(s), 2, blocked_s, 0.0)
    assert answer == pytest.approx(2.0)


def test_actors_that_came_in_between_count_for_the_time_they_were_there() -> None:
    wanted = ActorsWanted()
    for s in range(21):
        # 2 actors for 10 s and 4 for 10 s: 3 on average.
        answer = wanted.see(float(s), 2 if s <= 10 else 4, 0.0, 0.0)
    assert answer == pytest.approx(3.0)
