"""Where a run's records go: lines of JSON, TensorBoard, Weights & Biases."""

import contextlib
import errno
import json
import os
import secrets
from pathlib import Path
from typing import Any

from common.config import Config
from common.errors import ConfigError, RunDirectoryError
from common.run_directory import METRICS_FILE, WANDB_ID_FILE, replace_text
from learner.recorder import Record, Sink
from learner.videos import NewVideos, gif_summary

TAGS = {
    "learner_loss": "losses/td_loss",
    "learner_mean_q": "losses/q_values",
    "learner_experience_age_updates": "losses/experience_age",
    "learner_update_seconds_p50": "time/update_p50",
    "learner_batch_wait_seconds_p90": "time/batch_wait_p90",
    "actor_step_seconds_p50": "time/actor_step_p50",
    "actor_insert_ack_seconds_p90": "time/insert_ack_p90",
    "replay_transitions": "replay/transitions",
    "replay_limiter_error": "replay/limiter_error",
    "replay_sampled_age_p50": "replay/sampled_age_p50",
    "replay_new_priority_p50": "replay/new_priority_p50",
    "head_training_return": "charts/training_return",
    "head_policy_lag_updates": "charts/policy_lag",
    "head_actors": "charts/actors",
}
"""What TensorBoard and Weights & Biases show, by the names that their users know."""


class JsonLines:
    """`RUN_DIR/metrics.jsonl`: one object each record; a killed run leaves half a line at worst,
    which a resumed one ends."""

    def __init__(self, path: Path) -> None:
        # Unbuffered: what a full disk has no room for must not come later, without its beginning.
        self._file = path.open("ab", buffering=0)
        self._ends_within_line = bool(self._file.tell()) and not _ends_with_newline(path)

    def write(self, record: Record) -> None:
        line: dict[str, Any] = {
            "time": round(record.time_s, 3),
            "wall_s": round(record.wall_s, 3),
            "env_steps": record.env_steps,
            "updates": record.updates,
            **{name: _short(name, value) for name, value in record.values.items()},
        }
        if record.episode_returns:
            line["episode_returns"] = list(record.episode_returns)
            line["episode_lengths"] = list(record.episode_lengths)
        if record.evaluation is not None:
            line["evaluation"] = record.evaluation
        self._append(b"\n" * self._ends_within_line + json.dumps(line).encode() + b"\n")

    def _append(self, text: bytes) -> None:
        """Raises OSError when there is room for a part at most."""
        written = self._file.write(text)
        self._ends_within_line = written < len(text)
        if self._ends_within_line:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        self._file.close()


def _short(name: str, value: float) -> float:
    """The digits that tell something; of counters, whose differences matter, to thousandths."""
    return round(value, 3) if "_total" in name else float(f"{value:.6g}")


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"


class TensorBoard:
    """`RUN_DIR/tb`, over environment steps; with the evaluations' videos, as they come.

    Args:
        env_steps: from which a resumed run goes on; what was written beyond is shown no more.

    Raises ConfigError when the package is not installed.
    """

    def __init__(self, directory: Path, config: Config, videos: Path, env_steps: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "tensorboard = true needs the package tensorboard: pip install 'zapex[watch]', or "
                "choose tensorboard = false"
            ) from error
        # What was written at these very steps is not done again.
        self._writer = SummaryWriter(str(directory), purge_step=env_steps + 1)
        rows = "\n".join(f"|{name}|{value}|" for name, value in config.model_dump().items())
        self._writer.add_text("hyperparameters", f"|option|value|\n|-|-|\n{rows}")
        self._replay_servers = config.replay_servers
        self._last: Record | None = None
        self._videos = NewVideos(videos)

    def write(self, record: Record) -> None:
        for tag, value in scalars(record, self._last, self._replay_servers).items():
            env_steps = record.env_steps
            if record.evaluation is not None and tag.startswith("eval/"):
                # Those of the version, which may have been long ago.
                env_steps = int(record.evaluation["env_steps"])
            self._writer.add_scalar(tag, value, env_steps, walltime=record.time_s)
        self._last = record
        self._add_videos(record)

    def close(self) -> None:
        if self._last is not None:
            self._add_videos(self._last)
        self._writer.close()

    def _add_videos(self, record: Record) -> None:
        for path in self._videos.take():
            summary = gif_summary("eval/video", path)
            if summary is not None:
                events: Any = self._writer.file_writer
                events.add_summary(summary, record.env_steps, record.time_s)


class WeightsAndBiases:
    """A run of a project there; `WANDB_MODE=offline` keeps it in `RUN_DIR/wandb`.

    Raises ConfigError when the package is not installed.
    """

    def __init__(self, project: str, run_dir: Path, config: Config) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                f"wandb_project = {project} needs the package wandb: pip install 'zapex[wandb]', "
                "or choose wandb_project = none"
            ) from error
        self._run = wandb.init(
            project=project,
            name=run_dir.name,
            id=_wandb_id(run_dir),
            resume="allow",
            dir=str(run_dir),
            config=config.model_dump(mode="json"),
            # What this process prints is for its log.
            settings=wandb.Settings(console="off", silent=True),
        )
        self._replay_servers = config.replay_servers
        self._last: Record | None = None

    def write(self, record: Record) -> None:
        curves = scalars(record, self._last, self._replay_servers)
        values = {**curves, "env_steps": record.env_steps}
        if record.evaluation is not None:
            # Of the version that was scored: W&B's own steps cannot go back to it.
            values["eval/env_steps"] = record.evaluation["env_steps"]
        self._run.log(values, step=record.updates)
        self._last = record

    def close(self) -> None:
        self._run.finish()


def _wandb_id(run_dir: Path) -> str:
    """Of the run there, for as long as it lasts: its name may have been another's, whose curves W&B
    would go on with, and take no step before their end.

    Raises OSError when it cannot be kept.
    """
    path = run_dir / WANDB_ID_FILE
    if not path.exists():
        replace_text(path, secrets.token_hex(8), flush=True)
    return path.read_text()


def open_sinks(run_dir: Path, config: Config, env_steps: int = 0) -> list[Sink]:
    """Those that the configuration wants. `env_steps`: as of `TensorBoard`.

    Raises ConfigError when one needs a package that is not installed, RunDirectoryError when one
    cannot be written.
    """
    try:
        return _open_sinks(run_dir, config, env_steps)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write metrics to {run_dir} ({error.strerror}): free space or make it writable"
        ) from error


def _open_sinks(run_dir: Path, config: Config, env_steps: int) -> list[Sink]:
    with contextlib.ExitStack() as undone:
        sinks: list[Sink] = []

        def opened(sink: Sink) -> None:
            undone.callback(sink.close)
            sinks.append(sink)

        opened(JsonLines(run_dir / METRICS_FILE))
        if config.tensorboard:
            opened(TensorBoard(run_dir / "tb", config, run_dir / "videos", env_steps))
        if config.wandb_project is not None:
            opened(WeightsAndBiases(config.wandb_project, run_dir, config))
        undone.pop_all()
    return sinks


def scalars(record: Record, last: Record | None, replay_servers: int) -> dict[str, float]:
    """A record's curves by tag; rates are those since the last one.

    Args:
        replay_servers: that the run has; each tells for how long its own actors waited.
    """
    found = {tag: record.values[name] for name, tag in TAGS.items() if name in record.values}
    if last is not None and record.wall_s > last.wall_s:
        elapsed_s = record.wall_s - last.wall_s
        found["charts/SPS"] = (record.env_steps - last.env_steps) / elapsed_s
        found["charts/updates_per_second"] = (record.updates - last.updates) / elapsed_s
        for name, tag, processes in (
            ("replay_insert_blocked_seconds_total", "charts/actors_waiting", replay_servers),
            ("learner_waited_seconds_total", "charts/learner_waiting", 1),
        ):
            if name in record.values and name in last.values:
                waited_s = _waited_s(record, name) - _waited_s(last, name)
                # What a process tells, once a second by its own clock, may be of a little more.
                found[tag] = min(waited_s / (elapsed_s * processes), 1.0)
    if record.episode_returns:
        found["charts/episodic_return"] = _mean(record.episode_returns)
        found["charts/episodic_length"] = _mean(record.episode_lengths)
    if record.evaluation is not None:
        found["eval/episodic_return"] = record.evaluation["return_mean"]
        found["eval/episodic_return_std"] = record.evaluation["return_std"]
    return found


def _waited_s(record: Record, name: str) -> float:
    return record.values[name] - record.brought.get(name, 0.0)


def _mean(values: Any) -> float:
    return float(sum(values)) / len(values)
