"""The first signal stops a run; a later one does not wait for its checkpoint."""

import threading

import pytest

from deploy.interruption import Interruption


@pytest.mark.parametrize(
    ("times_s", "hurried"),
    [
        ([100.0], False),
        # A wrapper passes on what came already.
        ([100.0, 100.0, 100.9], False),
        ([100.0, 101.0], True),
        ([100.0, 100.1, 130.0], True),
    ],
)
def test_a_second_signal_hurries_unless_it_is_the_first_by_another_way(
    times_s: list[float], hurried: bool
) -> None:
    stop, times = threading.Event(), iter(times_s)
    interruption = Interruption(stop, lambda: next(times))
    assert not interruption.came()
    for _ in times_s:
        interruption.heed()
    assert stop.is_set()
    assert interruption.came()
    assert interruption.hurried() == hurried
