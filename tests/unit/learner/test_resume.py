"""What a run goes on with, and its environment steps: its replay may come back with less."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import run_directory
from common.config import Config
from common.errors import CheckpointError, RunDirectoryError
from common.messages import EvalResult
from learner.checkpoint import RunState, best_score, save_best, save_checkpoint
from learner.evaluations import Evaluations
from learner.resume import check_resumable, counters_of, inserted_since, resume
from learner.status import LearnerCounters
from tests.unit.learner.test_checkpoint import SPEC, make_learner, truncate


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


# ------------------------------------------------------------------------ what a run goes on with


class Stored:
    """A run that was killed, with one checkpoint."""

    def __init__(self, directory: Path, state: RunState, **config: Any) -> None:
        self.run_dir, self.checkpoints = directory / "run", directory / "run" / "checkpoints"
        self.config, self._learner = Config(**config), make_learner()
        run_directory.create(self.run_dir, self.config)
        save_checkpoint(self.checkpoints, self._learner, state, SPEC, keep=1)

    def keep_best(self, score: float) -> Path:
        weights = self._learner.online.state_dict()
        return save_best(self.checkpoints, weights, SPEC, {"return_mean": score})

    def resume(self, **changes: Any) -> RunState:
        wanted = self.config.model_copy(update=changes)
        resumed = resume(self.run_dir, self.checkpoints, wanted)
        assert resumed is not None
        return resumed[1]


def test_a_run_without_a_checkpoint_begins(tmp_path: Path) -> None:
    assert resume(tmp_path, tmp_path / "checkpoints", Config()) is None


def test_each_start_is_another_epoch(tmp_path: Path) -> None:
    assert Stored(tmp_path, RunState("run", epoch=3)).resume().epoch == 4


def test_its_live_view_begins_with_what_there_was() -> None:
    state = RunState(
        "run",
        updates=5,
        env_steps=1234,
        replay_inserted={0: 700, 1: 500},
        replay_sampled=640,
        best_score=9.0,
        evaluations=[{"return_mean": 9.0}, {"return_mean": 7.0}],
        evaluated=30,
    )
    assert counters_of(state) == LearnerCounters(
        updates=5,
        env_steps=1234,
        inserted=1200,
        sampled=640,
        score=7.0,
        best_score=9.0,
        evaluations=30,
    )
    assert counters_of(RunState("run")) == LearnerCounters()


@pytest.mark.parametrize(
    ("told", "wall_s"),
    [
        ('{"wall_s": 31.5}\n{"wall_s": 32.5}\n', 32.5),
        ('{"wall_s": 32.5}\n{"wall_s": 3', 32.5),  # Killed while it wrote.
        ('{"wall_s": 29.0}\n', 30.0),
        ('{"wall_s": "32.5"}\n', 30.0),
        ('{"wall_s": NaN}\n', 30.0),
        ('{"wall_s": Infinity}\n', 30.0),
        ("[]\n", 30.0),
        ("", 30.0),
        (None, 30.0),
    ],
)
def test_its_clock_goes_on_from_what_was_told_last(
    tmp_path: Path, told: str | None, wall_s: float
) -> None:
    stored = Stored(tmp_path, RunState("run", wall_s=30.0))
    if told is not None:
        (stored.run_dir / run_directory.METRICS_FILE).write_text(told)
    assert stored.resume().wall_s == wall_s


@pytest.mark.parametrize(
    ("target", "solved"), [(5.0, True), (400.0, False), (4.0, False), (None, False)]
)
def test_a_run_with_another_target_is_not_solved_yet(
    tmp_path: Path, target: float | None, solved: bool
) -> None:
    stored = Stored(tmp_path, RunState("run", solved=True), target_return=5.0)
    assert stored.resume(target_return=target).solved == solved


@pytest.mark.parametrize(
    ("kept", "damage", "best"),
    [
        (50.0, None, 50.0),  # 100 could not be written before the learner was killed.
        (50.0, truncate, None),
        (50.0, Path.unlink, None),
        (150.0, None, 150.0),  # It came after the checkpoint.
    ],
)
def test_the_best_weights_are_those_that_are_kept(
    tmp_path: Path, kept: float, damage: Callable[[Path], None] | None, best: float | None
) -> None:
    stored = Stored(tmp_path, RunState("run", best_score=100.0))
    path = stored.keep_best(kept)
    if damage is not None:
        damage(path)
    assert stored.resume().best_score == best


@pytest.mark.parametrize("damage", [None, truncate])
def test_a_score_that_is_better_than_what_is_kept_takes_its_place(
    tmp_path: Path, damage: Callable[[Path], None] | None
) -> None:
    stored = Stored(tmp_path, RunState("run", best_score=100.0))
    path = stored.keep_best(50.0)
    if damage is not None:
        damage(path)
    state = stored.resume()
    evaluations = Evaluations(Config(), SPEC, state, LearnerCounters(), stored.checkpoints)
    evaluations.expect(1, {"w": np.zeros(3, np.float32)}, 0.0)
    returns, lengths = np.full(2, 80.0, np.float32), np.full(2, 80, np.int32)
    evaluations.take(EvalResult(1, state.epoch, 1, 0.5, returns, lengths), 1.0)
    assert best_score(stored.checkpoints) == state.best_score == 80.0


def test_best_weights_that_cannot_be_opened_are_not_written_over(tmp_path: Path) -> None:
    stored = Stored(tmp_path, RunState("run", best_score=100.0))
    path = stored.keep_best(100.0)
    path.unlink()
    path.symlink_to(path)  # Refused to root, too.
    with pytest.raises(CheckpointError, match=r"cannot read .*/best\.safetensors"):
        stored.resume()
