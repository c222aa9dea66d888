"""What keeps ending is started again with growing patience, and not for ever."""

import pytest

from common.restarts import Restarts


def test_patience_grows_until_it_is_no_use() -> None:
    restarts = Restarts(first_s=0.2, last_s=2.0, most=5, window_s=60.0)
    # Doubled each time, 0.2 · 2⁴ = 3.2 is beyond the limit.
    delays = [restarts.delay_s("actor-0", now_s) for now_s in (0.0, 1.0, 2.0, 3.0, 4.0)]
    assert delays == [0.2, 0.4, 0.8, 1.6, 2.0]
    assert restarts.delay_s("actor-0", 5.0) is None
    assert restarts.delay_s("actor-1", 5.0) == 0.2


def test_what_lasted_is_forgiven() -> None:
    restarts = Restarts(first_s=0.2, most=2, window_s=60.0)
    assert [restarts.delay_s("host", t) for t in (0.0, 30.0, 59.0)] == [0.2, 0.4, None]
    # The first is a minute old, the second is not.
    assert restarts.recent("host", 60.0) == 1
    assert restarts.delay_s("host", 60.0) == 0.4


@pytest.mark.parametrize("tries", [100, 5_000])
def test_a_host_may_be_away_for_days(tries: int) -> None:
    restarts = Restarts(first_s=1.0, last_s=30.0, most=None, window_s=1e9)
    delays = [restarts.delay_s("host", float(t)) for t in range(tries)]
    assert delays[:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert delays[-1] == 30.0
