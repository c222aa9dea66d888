"""What a run that goes on may not change, and what it begins with."""

import math
from collections.abc import Mapping
from pathlib import Path

from common import run_directory
from common.config import Config
from common.errors import RunDirectoryError
from common.spec import EnvSpec
from learner.checkpoint import RunState, best_score, load_run_state, newest_intact
from learner.status import LearnerCounters

FIXED_ON_RESUME = (
    "env",
    "env_kwargs",
    "obs_key",
    "resize",
    "greyscale",
    "frame_stack",
    "life_loss_ends_episode",
    "reward_clip",
    "block_length",
    "n_step",
    "replay_capacity",
    "replay_servers",
)
"""What the stored experience depends on."""


def resume(
    run_dir: Path, checkpoints: Path, wanted: Config
) -> tuple[Path, RunState, EnvSpec] | None:
    """The checkpoint that a run goes on from, and what it begins with; None: there is none.

    Raises:
        CheckpointError: there are checkpoints and none to go on from, or one cannot be read.
        RunDirectoryError: `wanted` cannot go on with what is stored.
    """
    path = newest_intact(checkpoints)
    if path is None:
        return None
    state, spec = load_run_state(path)
    stored = run_directory.stored_config(run_dir)
    check_resumable(stored, wanted)
    state.epoch += 1
    state.solved &= wanted.target_return == stored.target_return
    # Weights that scored best after the checkpoint are kept already, and some from before it may
    # not be: they could not be written, or were lost.
    state.best_score = best_score(checkpoints)
    # A killed learner had run on after its checkpoint, and the steps of that time count.
    state.wall_s = max(state.wall_s, _told_s(run_dir))
    return path, state, spec


def _told_s(run_dir: Path) -> float:
    """The run's wall time as metrics.jsonl tells it last, in seconds; 0: it does not."""
    try:
        told = run_directory.last_line(run_dir / run_directory.METRICS_FILE).get("wall_s")
    except OSError:
        return 0.0
    return float(told) if isinstance(told, int | float) and math.isfinite(told) else 0.0


def check_resumable(stored: Config, wanted: Config) -> None:
    """Raises RunDirectoryError when `wanted` cannot go on with what was stored under `stored`."""
    for key in FIXED_ON_RESUME:
        old, new = getattr(stored, key), getattr(wanted, key)
        if old != new:
            raise RunDirectoryError(
                f"--resume cannot change {key} from {old!r} to {new!r}: the run's experience was "
                "stored with it. Leave it out, or start a new run"
            )


def counters_of(state: RunState) -> LearnerCounters:
    """What a run's live view begins with."""
    last = state.evaluations[-1]["return_mean"] if state.evaluations else None
    return LearnerCounters(
        updates=state.updates,
        env_steps=state.env_steps,
        inserted=sum(state.replay_inserted.values()),
        sampled=state.replay_sampled,
        score=last,
        best_score=state.best_score,
        evaluations=state.evaluated,
    )


def inserted_since(before: Mapping[int, int], now: Mapping[int, int]) -> int:
    """Transitions inserted between two counts of the replay servers, by number.

    One may have come back in between. One that lost its newest experience with the machine's power
    goes on from a count of a while ago; what it has forgotten has been counted already. One that
    came back empty goes on from 0. Which of them it was shows by how far it went back: a replay
    forgets seconds.
    """
    return sum(_inserted_since(before.get(number, 0), count) for number, count in now.items())


def _inserted_since(before: int, now: int) -> int:
    if now >= before:
        return now - before
    return now if now < before / 2 else 0
