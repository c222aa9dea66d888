"""A clock that stands still while nobody listens."""

from common.listening_clock import ListeningClock


def test_time_in_which_nobody_listened_does_not_count() -> None:
    clock = ListeningClock(100.0, longest_look_s=2.0)
    assert clock.at(100.25) == 0.25
    assert clock.at(101.0) == 1.0
    # No processor for a minute, or stopped: whoever spoke meanwhile is heard next.
    assert clock.at(161.0) == 1.0 + 2.0
    assert clock.at(161.5) == 1.5 + 2.0
