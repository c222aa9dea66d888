"""The run's environment steps, counted by a replay that may come back with less."""

from typing import Any

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


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("env", "CartPole-v1", "Acrobot-v1"),
        ("env_kwargs", {"frameskip": 4}, {"frameskip": 5}),
        ("obs_key", None, "image"),
        ("resize", (84, 84), (42, 42)),
        ("greyscale", False, True),
        ("frame_stack", 4, 1),
        ("life_loss_ends_episode", True, False),
        ("reward_clip", 1.0, None),
        ("block_length", 64, 32),
        ("n_step", 3, 1),
        ("replay_capacity", 1_000_000, 500_000),
        ("replay_servers", 2, 3),
    ],
)
def test_a_run_keeps_what_its_experience_was_stored_with(key: str, old: Any, new: Any) -> None:
    before, after = Config(**{key: old}), Config(**{key: new})
    check_resumable(before, before)
    with pytest.raises(RunDirectoryError) as refused:
        check_resumable(before, after)
    assert f"cannot change {key} from {old!r} to {new!r}" in str(refused.value)


def test_whatever_is_not_stored_may_change() -> None:
    # γ and the loss are applied to what is sampled, not to what is stored.
    changes = {"discount": 0.9, "reward_clip": 1.0, "vectorization": "async", "seed": 1}
    check_resumable(Config(reward_clip=1.0), Config(**changes))
