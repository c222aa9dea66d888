"""A run directory is made for a new run, never over an old one unless asked to."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from common import run_directory
from common.config import Config
from common.errors import ConfigError, RunDirectoryError
from tests.scarcity import file_size_limit

CONFIG = Config(seed=7, target_return=None, env_kwargs={"size": None, "names": ["a", 'b"c']})
OURS = (
    "config.toml",
    "result.json",
    "checkpoints/00000050.safetensors",
    "checkpoints/best.safetensors",
    "checkpoints/00000100.partial",
    "checkpoints/.tmpUc2nZ9",
    "config.toml.partial",
    "checkpoints/00000150.damaged",
    "replay/storage",
    "replay/storage-0",
    "replay/storage-11",
    "logs/actor-0.log",
    "metrics.jsonl",
    "wandb_id",
    "slurm/job.sh",
    "curve.png",
    "throughput.png",
    "videos/00000050.mp4",
    "videos/00000100.mp4.partial",
    "videos/best_episode_1_seed_5_return_-9.5_length_80.gif",
)
"""What a run leaves behind."""
THEIRS = ("notes.txt", "checkpoints/mine.txt", "logs/mine.txt", "replay/mine.txt",
          "replay/storage-0.bak", "plots/a.png", "videos/mine.mp4")  # fmt: skip
"""What somebody put beside it."""


def put(run_dir: Path, files: Sequence[str]) -> None:
    for name in files:
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text(name)


def files_of(run_dir: Path) -> set[str]:
    """But for its locks."""
    found = (p for p in run_dir.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(run_dir)) for p in found}


@pytest.mark.parametrize("where", ["run", "not/there/yet/run"])
def test_a_new_run_has_its_directories_and_its_configuration(tmp_path: Path, where: str) -> None:
    run_dir = tmp_path / where
    run_directory.create(run_dir, CONFIG)
    made = {p.name for p in run_dir.iterdir() if p.suffix != ".lock"}
    assert made == {"config.toml", "checkpoints", "replay", "logs"}
    assert run_directory.stored_config(run_dir) == CONFIG


def test_the_configuration_of_a_resumed_run_replaces_the_stored_one(tmp_path: Path) -> None:
    run_directory.create(tmp_path / "run", CONFIG)
    other = Config(seed=8, target_return=-110.0)
    run_directory.store_config(tmp_path / "run", other)
    assert run_directory.stored_config(tmp_path / "run") == other


def test_a_full_disk_leaves_the_configuration_as_it_was(tmp_path: Path) -> None:
    run_directory.create(tmp_path / "run", CONFIG)
    before = files_of(tmp_path)
    path = tmp_path / "run" / "config.toml"
    with (
        file_size_limit(100),
        pytest.raises(RunDirectoryError) as refused,
    ):
        run_directory.store_config(tmp_path / "run", Config(seed=8))
    assert str(refused.value) == (
        f"cannot write {path} (File too large): free space or make it writable"
    )
    assert run_directory.stored_config(tmp_path / "run") == CONFIG
    assert files_of(tmp_path) == before


def test_a_run_can_only_go_on_where_it_can_write(tmp_path: Path) -> None:
    run_directory.create(tmp_path / "run", CONFIG)
    before = files_of(tmp_path)
    run_directory.require_writable(tmp_path / "run")
    with file_size_limit(100), pytest.raises(RunDirectoryError, match="cannot write"):
        run_directory.require_writable(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="No such file or directory"):
        run_directory.require_writable(tmp_path / "gone")
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    "trace",
    [
        ["result.json"],
        ["checkpoints/00000050.safetensors"],
        ["checkpoints/best.safetensors"],
        ["replay/storage-1"],
        ["replay/storage"],
        ["config.toml"],  # Without our directories beside it: not one of ours.
        list(OURS),
    ],
    ids=lambda trace: trace[0],
)
def test_a_run_is_not_written_over(tmp_path: Path, trace: Sequence[str]) -> None:
    run_dir = tmp_path / "run"
    put(run_dir, trace)
    with pytest.raises(RunDirectoryError, match=r"--resume .*run, .*--overwrite, .*--run-dir"):
        run_directory.create(run_dir, CONFIG)
    assert files_of(run_dir) == set(trace)
    assert all((run_dir / name).read_text() == name for name in trace)


@pytest.mark.parametrize(
    "left", [(), ("notes.txt",), ("config.toml", "checkpoints/00000050.partial", "logs/actor.log")]
)
def test_a_directory_with_nothing_to_lose_is_taken(tmp_path: Path, left: Sequence[str]) -> None:
    """Such as that of a run that could not start."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    put(run_dir, left)
    run_directory.create(run_dir, CONFIG)
    assert run_directory.stored_config(run_dir) == CONFIG


@pytest.mark.parametrize(
    "theirs", [("curve.png",), ("slurm/job.sh",), ("logs/x.log", "profile/n.txt", "a.partial")]
)
@pytest.mark.parametrize("beside", [(), ("checkpoints/mine.txt",)])
def test_files_of_a_runs_names_where_there_is_no_run_are_somebody_elses(
    tmp_path: Path, theirs: Sequence[str], beside: Sequence[str]
) -> None:
    run_dir = tmp_path / "project"
    put(run_dir, (*theirs, *beside))
    named = ", ".join(sorted(theirs))
    with pytest.raises(RunDirectoryError) as refused:
        run_directory.create(run_dir, CONFIG)
    assert str(refused.value) == (
        f"{run_dir} holds no run, but files that a run would replace ({named}): choose another "
        "--run-dir, or have them deleted with --overwrite"
    )
    assert files_of(run_dir) == {*theirs, *beside}
    run_directory.create(run_dir, CONFIG, overwrite=True)
    assert files_of(run_dir) == {"config.toml", *beside}


def test_of_many_such_files_a_few_are_named(tmp_path: Path) -> None:
    put(tmp_path, [f"logs/{number}.log" for number in range(9)])
    with pytest.raises(RunDirectoryError, match=r"\(logs/0.log, .*, logs/4.log, \.\.\.\)"):
        run_directory.create(tmp_path, CONFIG)


def test_a_directory_of_a_files_name_is_no_file_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "profile" / "sub").mkdir(parents=True)
    (tmp_path / "logs" / "old.log").mkdir(parents=True)
    run_directory.create(tmp_path, CONFIG)
    run_directory.create(tmp_path, CONFIG, overwrite=True)
    assert (tmp_path / "profile" / "sub").is_dir()
    assert (tmp_path / "logs" / "old.log").is_dir()


def test_a_run_that_was_overwritten_is_gone_and_nothing_else(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    put(run_dir, OURS + THEIRS)
    run_directory.create(run_dir, CONFIG, overwrite=True)
    assert files_of(run_dir) == {"config.toml", *THEIRS}
    assert run_directory.stored_config(run_dir) == CONFIG
    assert all((run_dir / name).read_text() == name for name in THEIRS)


@pytest.mark.parametrize(
    ("files", "resumable"),
    [
        ((), False),
        # A start that failed: the next one may have another configuration.
        (("config.toml", "logs/learner.log", "checkpoints/00000050.partial"), False),
        (("config.toml", "checkpoints/00000000.safetensors"), True),
        # Killed before its first checkpoint, but not before its actors had inserted.
        (("config.toml", "checkpoints/00000000.partial", "replay/storage"), True),
        (("checkpoints/00000050.safetensors",), False),
        (("config.toml", "result.json"), False),  # Not one of ours.
    ],
)
def test_a_run_that_has_begun_can_be_resumed(
    tmp_path: Path, files: Sequence[str], resumable: bool
) -> None:
    put(tmp_path / "run", files)
    assert run_directory.is_resumable(tmp_path / "run") == resumable


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (None, None),
        ("half a ", None),
        ({"solved": False, "env_steps": 400, "target": 475.0}, None),  # It was stopped.
        ({"solved": True, "env_steps": 400, "target": 475.0}, True),
        ({"solved": False, "env_steps": 1_007, "target": 475.0}, False),
        # Somebody wants more of it than it reached.
        ({"solved": True, "env_steps": 400, "target": 100.0}, None),
        ({"solved": False, "env_steps": 999, "target": 475.0}, None),
    ],
)
def test_a_run_has_ended_when_its_result_meets_the_configuration(
    tmp_path: Path, result: dict[str, object] | str | None, verdict: bool | None
) -> None:
    if result is not None:
        text = result if isinstance(result, str) else json.dumps(result)
        (tmp_path / "result.json").write_text(text)
    config = Config(target_return=475.0, total_env_steps=1_000)
    assert run_directory.verdict(tmp_path, config) == verdict


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_no_run_directory(tmp_path: Path, overwrite: bool) -> None:
    put(tmp_path, ["run"])
    with pytest.raises(RunDirectoryError, match="run is a file: choose another --run-dir"):
        run_directory.create(tmp_path / "run", CONFIG, overwrite=overwrite)
    with pytest.raises(RunDirectoryError, match=r"cannot write to .*run/below .*Not a directory"):
        run_directory.create(tmp_path / "run" / "below", CONFIG, overwrite=overwrite)
    assert (tmp_path / "run").read_text() == "run"


def test_logs_may_be_deleted_while_a_run_goes_on_and_the_run_directory_does_not_come_back(
    tmp_path: Path,
) -> None:
    for text in (b"one", b"two"):
        with run_directory.open_log(tmp_path / "logs" / "actor-0.log") as log:
            log.write(text)
    assert (tmp_path / "logs" / "actor-0.log").read_bytes() == b"onetwo"
    with pytest.raises(FileNotFoundError):
        run_directory.open_log(tmp_path / "gone" / "logs" / "actor-0.log")


def test_what_is_no_run_cannot_be_continued(tmp_path: Path) -> None:
    for where in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunDirectoryError, match=r"holds no run \(no config.toml there\)"):
            run_directory.stored_config(where)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed = ", "config.toml is not TOML"),
        ("sead = 1", r"config.toml: unknown key 'sead'; did you mean seed\?"),
        ("seed = -1", "config.toml: seed = -1"),
    ],
)
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str, reason: str) -> None:
    run_directory.create(tmp_path / "run", CONFIG)
    (tmp_path / "run" / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        run_directory.stored_config(tmp_path / "run")
