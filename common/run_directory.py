"""The directory that holds everything of one run.

config.toml     every value in force
result.json     what it came to
checkpoints/    see learner/checkpoint.py
replay/         the experience
logs/           one file per process
metrics.jsonl   the run's metrics, a line each second
head            where the run can be asked how it goes, while it does
status.json     what it answered last
tb/             the same for TensorBoard, if wanted
trace.json      what every loop did for 200 updates, if wanted; profile/ has its parts
curve.png       score and training return
throughput.png  rates, the replay's fill, and who waited
videos/         greedy episodes on film, if wanted
"""

import json
from pathlib import Path

from common.config import Config, config_from_mapping, read_toml, write_toml
from common.errors import RunDirectoryError

CONFIG_FILE = "config.toml"
RESULT_FILE = "result.json"


def create(run_dir: Path, config: Config, *, overwrite: bool = False) -> None:
    """Make the directory for a new run and put its configuration there.

    Raises RunDirectoryError when it holds a run already and `overwrite` is false, or cannot be
    written.
    """
    try:
        if _holds_a_run(run_dir) and not overwrite:
            raise RunDirectoryError(
                f"{run_dir} holds a run already: continue it with --resume {run_dir}, replace it "
                "with --overwrite, or choose another --run-dir"
            )
        if run_dir.exists() and not run_dir.is_dir():
            raise RunDirectoryError(f"{run_dir} is a file: choose another --run-dir")
        _clear(run_dir)
        for part in ("checkpoints", "replay", "logs"):
            (run_dir / part).mkdir(parents=True, exist_ok=True)
        store_config(run_dir, config)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to {run_dir} ({error.strerror}): make it writable or choose another "
            "--run-dir"
        ) from error


def store_config(run_dir: Path, config: Config) -> None:
    """Write every value in force."""
    write_toml(config, run_dir / CONFIG_FILE)


def stored_config(run_dir: Path) -> Config:
    """The configuration a run had. Raises RunDirectoryError when there is no run."""
    path = run_dir / CONFIG_FILE
    if not path.exists():
        raise RunDirectoryError(f"{run_dir} holds no run (no {CONFIG_FILE} there)")
    return config_from_mapping(read_toml(path, str(path)), str(path))


def is_resumable(run_dir: Path) -> bool:
    """Whether a run began there, so that a restarted one goes on with it."""
    return (run_dir / CONFIG_FILE).exists() and not _is_foreign(run_dir) and _has_traces(run_dir)


def verdict(run_dir: Path, config: Config) -> bool | None:
    """Whether the run solved its task; None: it has not ended, or `config` lets it go on."""
    try:
        result = json.loads((run_dir / RESULT_FILE).read_text())
        solved, env_steps, target = result["solved"], result["env_steps"], result["target"]
    except (OSError, ValueError, KeyError):
        return None
    solved = bool(solved) and target == config.target_return
    return solved if solved or env_steps >= config.total_env_steps else None


def _holds_a_run(run_dir: Path) -> bool:
    """Whether there is anything to lose: a start that failed leaves only its configuration."""
    return _is_foreign(run_dir) or _has_traces(run_dir)


def _is_foreign(run_dir: Path) -> bool:
    """A config.toml that does not lie beside our directories is somebody else's."""
    return (run_dir / CONFIG_FILE).exists() and not (run_dir / "checkpoints").is_dir()


def _has_traces(run_dir: Path) -> bool:
    traces = (RESULT_FILE, "checkpoints/*.safetensors", "replay/storage")
    return any(True for pattern in traces for _ in run_dir.glob(pattern))


def _clear(run_dir: Path) -> None:
    """Remove what a run writes, and nothing else that may lie there."""
    for pattern in (
        "config.toml",
        "result.json",
        "result.json.partial",
        "checkpoints/*.safetensors",
        "checkpoints/*.partial",
        "replay/storage",
        "logs/*.log",
        "metrics.jsonl",
        "trace.json",
        "profile/*",
        "prometheus.json",
        "head",
        "status.json",
        "tb/events.out.tfevents.*",
        "curve.png",
        "throughput.png",
        "videos/[0-9]*.mp4",
        "videos/*_episode_*.mp4",
        "videos/*_episode_*.gif",
        "videos/*.partial",
    ):
        for path in run_dir.glob(pattern):
            path.unlink()
