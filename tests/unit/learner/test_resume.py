"""The run's environment steps, counted by a replay that may come back with less."""

import pytest

from common.config import Config
from common.errors import RunDirectoryError
from learner.resume import check_resumable, inserted_since


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        (0, 0, 0),
        (0, 500, 500),
        (10_000, 10_032, 32),
        # Lost with the power: what was inserted again was counted before, or is not known.
        (10_000, 9_700, 0),
        (10_000, 5_000, 0),
        # Came back empty.
        (10_000, 100, 100),
        (10_000, 0, 0),
    ],
)
def test_what_a_replay_forgot_is_not_counted_again(before: int, now: int, new: int) -> None:
    assert inserted_since({0: before}, {0: now}) == new


def test_each_replay_server_is_counted_by_itself() -> None:
    # 0 lost some, 1 went on, 2 came back empty, 3 is new; 4 says nothing.
    before = {0: 1_000, 1: 1_000, 2: 1_000, 4: 1_000}
    assert inserted_since(before, {0: 900, 1: 1_050, 2: 70, 3: 5}) == 0 + 50 + 70 + 5


def test_a_run_counts_on_after_either() -> None:
    counted, before = 0, 0
    # 1,000 steps, 200 of them lost, 50 new ones; the replay anew, 40 steps, 10 more.
    for now in (600, 1_000, 800, 850, 0, 40, 50):
        counted += inserted_since({0: before}, {0: now})
        before = now
    assert counted == 1_000 + 50 + 40 + 10


def test_a_run_keeps_the_files_its_experience_is_divided_into() -> None:
    two = Config(replay_servers=2)
    check_resumable(two, two)
    with pytest.raises(RunDirectoryError, match="cannot change replay_servers from 2 to 3"):
        check_resumable(two, Config(replay_servers=3))
