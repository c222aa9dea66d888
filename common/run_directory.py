"""The directory that holds everything of one run.

config.toml     every value in force
*.lock          held by the run's launcher and by its learner: there is one of each
result.json     what it came to
checkpoints/    see learner/checkpoint.py
replay/         the experience
logs/           one file per process
metrics.jsonl   the run's metrics, a line each second
head            where the run can be asked how it goes, while it does
status.json     what it answered last
tb/             the same for TensorBoard, if wanted
wandb_id        under which Weights & Biases has the run, if wanted
trace.json      what the loops did for 200 updates, if wanted; profile/ has its parts
curve.png       score and training return
throughput.png  rates, the replay's fill, and who waited
slurm/          the job's script and its output, if it is one
videos/         greedy episodes on film, if wanted
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from common.config import Config, config_from_mapping, read_toml, to_toml
from common.errors import RunDirectoryError
from common.file_lock import exclusive

CONFIG_FILE = "config.toml"
RESULT_FILE = "result.json"
METRICS_FILE = "metrics.jsonl"
HALF_WRITTEN = ("*.partial", ".tmp??????")
"""What a process that is killed while it writes a checkpoint leaves: ours, and safetensors'."""
TAIL_BYTES = 32 * 1024
"""How much of metrics.jsonl is read for its last line: several, of a second each."""
WANDB_ID_FILE = "wandb_id"
PROBE_FILE, PROBE_BYTES = ".writable", 4096
"""Written and removed again, to see whether that is possible."""
NAMED_FILES = 5
"""Of another's files so many are named; more would hide what to do."""
LAUNCHER, LEARNER = "launcher", "learner"
LAST_LEARNER_S = 10.0
"""How long a learner whose launcher was killed may take to end: a little more than
`common.process.STOP_LIMIT_S`."""


def create(run_dir: Path, config: Config, *, overwrite: bool = False) -> None:
    """Make the directory for a new run and put its configuration there.

    Raises RunDirectoryError when it holds a run already, or somebody else's files of the same
    names, and `overwrite` is false, or cannot be written.
    """
    try:
        if _holds_a_run(run_dir) and not overwrite:
            raise RunDirectoryError(
                f"{run_dir} holds a run already: continue it with --resume {run_dir}, replace it "
                "with --overwrite, or choose another --run-dir"
            )
        if run_dir.exists() and not run_dir.is_dir():
            raise RunDirectoryError(f"{run_dir} is a file: choose another --run-dir")
        run_dir.mkdir(parents=True, exist_ok=True)
        # One whose launcher was killed may still write its last checkpoint.
        with held(run_dir, LAUNCHER), held(run_dir, LEARNER):
            found = _files_of_a_run(run_dir)
            if found and not overwrite and not _began_here(run_dir):
                raise _others_files(run_dir, found)
            for path in found:
                path.unlink()
        for part in ("checkpoints", "replay", "logs"):
            (run_dir / part).mkdir(parents=True, exist_ok=True)
        store_config(run_dir, config)
    except OSError as error:
        raise _unwritable(run_dir, error) from error


@contextlib.contextmanager
def held(run_dir: Path, role: str) -> Iterator[None]:
    """Be the only process of that role, launcher or learner, in the run, until this is over or the
    process dies.

    Raises RunDirectoryError when another one is.
    """
    wait_s = LAST_LEARNER_S if role == LEARNER else 0.0
    refusal = f"{run_dir} is in use by another {role}: stop that one, or choose another --run-dir"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(run_dir / f"{role}.lock", refusal, wait_s))
        except OSError as error:
            raise _unwritable(run_dir, error) from error
        yield


def store_config(run_dir: Path, config: Config) -> None:
    """Write every value in force; without them no run can be resumed. Raises RunDirectoryError when
    that is not possible."""
    write_or_explain(run_dir / CONFIG_FILE, to_toml(config))


def require_writable(run_dir: Path) -> None:
    """Raises RunDirectoryError when a run cannot go on in the directory: it is read-only, or its
    disk is full."""
    write_or_explain(run_dir / PROBE_FILE, "\0" * PROBE_BYTES)
    (run_dir / PROBE_FILE).unlink()


def write_or_explain(path: Path, text: str) -> None:
    """As `replace_text`, and on the disk afterwards. Raises RunDirectoryError in place of
    OSError."""
    try:
        replace_text(path, text, flush=True)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write {path} ({error.strerror}): free space or make it writable"
        ) from error


def replace_text(path: Path, text: str, *, flush: bool = False) -> None:
    """Write a file that is whole or as it was before, whenever somebody reads it.

    Args:
        flush: have it on the disk before this returns, for the power may fail.

    Raises OSError when it stays as it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def open_log(path: Path) -> BinaryIO:
    """A log of the run, to write on at its end; its directory is made again should somebody have
    deleted that. Raises OSError."""
    # Not its parents: a run directory that was removed is not to come back without its rest.
    path.parent.mkdir(exist_ok=True)
    return path.open("ab", buffering=0)


def stored_config(run_dir: Path) -> Config:
    """The configuration a run had. Raises RunDirectoryError when there is no run."""
    path = run_dir / CONFIG_FILE
    if not path.exists():
        raise RunDirectoryError(f"{run_dir} holds no run (no {CONFIG_FILE} there)")
    return config_from_mapping(read_toml(path, str(path)), str(path))


def is_resumable(run_dir: Path) -> bool:
    """Whether a run began there, so that a restarted one goes on with it."""
    return _began_here(run_dir) and _has_traces(run_dir)


def verdict(run_dir: Path, config: Config) -> bool | None:
    """Whether the run solved its task; None: it has not ended, or `config` lets it go on."""
    try:
        result = json.loads((run_dir / RESULT_FILE).read_text())
        solved, env_steps, target = result["solved"], result["env_steps"], result["target"]
    except (OSError, ValueError, KeyError):
        return None
    solved = bool(solved) and target == config.target_return
    return solved if solved or env_steps >= config.total_env_steps else None


def last_line(path: Path) -> dict[str, Any]:
    """The last whole one of a file of metrics; empty: there is none. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - TAIL_BYTES, 0))
        tail = file.read(TAIL_BYTES)
    for text in reversed(tail.split(b"\n")):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            return line
    return {}


def _unwritable(run_dir: Path, error: OSError) -> RunDirectoryError:
    return RunDirectoryError(
        f"cannot write to {run_dir} ({error.strerror}): make it writable or choose another "
        "--run-dir"
    )


def _others_files(run_dir: Path, found: list[Path]) -> RunDirectoryError:
    names = [str(path.relative_to(run_dir)) for path in found[:NAMED_FILES]]
    more = ["..."] if len(found) > NAMED_FILES else []
    return RunDirectoryError(
        f"{run_dir} holds no run, but files that a run would replace ({', '.join(names + more)}): "
        "choose another --run-dir, or have them deleted with --overwrite"
    )


def _holds_a_run(run_dir: Path) -> bool:
    """Whether there is anything to lose: a start that failed leaves only its configuration."""
    return _is_foreign(run_dir) or _has_traces(run_dir)


def _is_foreign(run_dir: Path) -> bool:
    """A config.toml that does not lie beside our directories is somebody else's."""
    return (run_dir / CONFIG_FILE).exists() and not _began_here(run_dir)


def _began_here(run_dir: Path) -> bool:
    """Whether a run was ever made there."""
    return (run_dir / CONFIG_FILE).exists() and (run_dir / "checkpoints").is_dir()


def _has_traces(run_dir: Path) -> bool:
    traces = (RESULT_FILE, "checkpoints/*.safetensors")
    found = any(True for pattern in traces for _ in run_dir.glob(pattern))
    return found or bool(_storage_files(run_dir))


def _storage_files(run_dir: Path) -> list[Path]:
    """Of its replay server, or of several."""
    found = run_dir.glob("replay/storage*")
    return [path for path in found if re.fullmatch(r"storage(-[0-9]+)?", path.name)]


def _files_of_a_run(run_dir: Path) -> list[Path]:
    """What a run writes, and nothing else that may lie there."""
    found = _storage_files(run_dir)
    for pattern in (
        "config.toml",
        "result.json",
        "checkpoints/*.safetensors",
        *(f"checkpoints/{name}" for name in HALF_WRITTEN),
        "*.partial",
        "checkpoints/*.damaged",
        "logs/*.log",
        METRICS_FILE,
        WANDB_ID_FILE,
        "trace.json",
        "profile/*",
        "prometheus.json",
        "slurm/job.sh",
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
        found += (path for path in run_dir.glob(pattern) if not path.is_dir())
    # A film's name can fit two patterns.
    return sorted(set(found))
