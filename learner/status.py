"""How a run goes, for live views and scripts."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from common.metrics import Values


@dataclass(slots=True)
class LearnerCounters:
    """Written by the learner's loop, read by the control thread."""

    phase: str = "starting"
    """starting, waiting (for experience), training, finishing, done or failed."""
    updates: int = 0
    env_steps: int = 0
    """Environment steps that reached the replay since the run began."""
    table_size: int = 0
    inserted: int = 0
    sampled: int = 0
    loss: float = 0.0
    mean_q: float = 0.0
    experience_age: float = 0.0
    """Updates between the weights that acted in the newest batch and the present ones, mean."""
    overwritten: int = 0
    """Sampled transitions that were evicted before the learner had read them, and replaced."""
    waited_s: float = 0.0
    """Time without a batch to train on, in seconds."""
    score: float | None = None
    """Mean greedy return of the newest evaluation."""
    best_score: float | None = None
    evaluations: int = 0
    checkpoint: str = ""
    failed_checkpoints: int = 0
    """That could not be written, in a row."""
    trouble: str = ""
    """Why the newest of them could not; empty: they can be written."""


def learner_values(counters: LearnerCounters) -> Values:
    """The learner's counters and gauges, by the names of `common/metric_table.py`."""
    values: Values = {
        "learner_updates_total": counters.updates,
        "learner_env_steps_total": counters.env_steps,
        "learner_loss": counters.loss,
        "learner_mean_q": counters.mean_q,
        "learner_experience_age_updates": counters.experience_age,
        "learner_overwritten_transitions_total": counters.overwritten,
        "learner_waited_seconds_total": counters.waited_s,
        "learner_failed": float(counters.phase == "failed"),
        "learner_failed_checkpoints": counters.failed_checkpoints,
    }
    if counters.score is not None:
        values["learner_score"] = counters.score
    if counters.best_score is not None:
        values["learner_best_score"] = counters.best_score
    return values


@dataclass(slots=True)
class RunStatus:
    """One moment of a run; rates are for the reader to take from two of them."""

    run_id: str
    env: str
    wall_s: float
    """Since the run began, all its parts together."""
    total_env_steps: int
    target_return: float | None
    samples_per_insert: float | None
    replay_capacity: int
    """Transitions."""
    replay_bytes: int
    """That they take in the replay server, all columns and overlaps counted."""
    learner: LearnerCounters
    train_return: float | None
    """Mean raw return of the newest training episodes, exploration included."""
    episodes: int
    members: list[dict[str, Any]] = field(default_factory=list)
    """role, number, host, pid and counters of each; of actors also their place on the ε ladder and,
    by environment (a number of theirs, as text), the mean return of its newest episodes."""
    histograms: dict[str, list[float]] = field(default_factory=dict)
    """Of the whole run, by metric: how many values fell into each range, and the sum of all."""
    lost: dict[str, int] = field(default_factory=dict)
    refused: Values = field(default_factory=dict)
    """What the run's processes did not accept so far: messages by metric and reason (NAME.REASON),
    handshakes by metric. Without those of which there was none."""

    def to_plain(self) -> dict[str, Any]:
        """To be packed or written at once: members' values are the head's own."""
        # `asdict` would copy whatever thousands of members told.
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"learner": asdict(self.learner)}
