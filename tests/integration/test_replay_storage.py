"""Where a launched run keeps its experience, and what becomes of it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.config import Config
from common.errors import ConfigError
from deploy.launch import launch
from deploy.topology import replay_storage
from tests.integration.conftest import Start
from tests.integration.runs import (
    ENDLESS,
    Command,
    head_of,
    log_of,
    own_logging,
    pid_of,
    result_of,
    status,
    until,
    updates_beyond,
    write_preset,
)

ENDLESS_IN_SHARED_MEMORY = {
    "replay_storage": "shm",
    "total_env_steps": ENDLESS,
    "replay_capacity": 100_000,  # More than a test fills.
}
BY_WIRE = "batches come over the wire: the replay server keeps its experience in memory of its own"


@pytest.fixture
def shm_file(tmp_path: Path) -> Iterator[Path]:
    """Of the run in the test's directory `run`, if it is to live in /dev/shm."""
    path = replay_storage(Config(replay_storage="shm"), tmp_path / "run")
    assert path is not None
    yield path
    path.unlink(missing_ok=True)


def launched(start: Start, directory: Path, *words: str, **changes: Any) -> Command:
    preset = write_preset(directory / "tiny.toml", **changes)
    run_dir = str(directory / "run")
    return start("deploy", "launch", "--preset", preset, "--run-dir", run_dir, *words)


def restored(run_dir: Path) -> list[int]:
    """Transitions that each replay server of the run found in its storage."""
    lines = [line for line in log_of(run_dir, "replay_server").splitlines() if "restored" in line]
    return [int(line.rpartition("restored transitions: ")[2]) for line in lines]


def test_each_run_has_a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(storage: str, run_dir: Path) -> Path | None:
        return replay_storage(Config.model_validate({"replay_storage": storage}), run_dir)

    run, namesake = tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert place("memory", run) is None
    assert place("file", run) == run / "replay" / "storage"
    in_memory = place("shm", run)
    assert in_memory is not None
    assert in_memory.parent == Path("/dev/shm")
    assert in_memory.name.startswith("zapex-run-")
    assert place("shm", namesake) != in_memory
    # The same directory is the same run, however it is written: it is found again.
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert place("shm", Path("a/../a/run")) == in_memory


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["file", "shm", "memory"])
def test_a_run_learns_from_any_storage_and_leaves_only_files_that_are_to_stay(
    start: Start, tmp_path: Path, shm_file: Path, storage: str
) -> None:
    run = launched(start, tmp_path, "--replay-storage", storage, total_env_steps=600)
    assert run.wait() == 0
    assert run.nothing_left()
    run_dir = tmp_path / "run"
    assert result_of(run_dir)["learner_updates"] > 50
    path = {"file": run_dir / "replay" / "storage", "shm": shm_file, "memory": None}[storage]
    line = BY_WIRE if path is None else f"transitions are read from {path}"
    assert log_of(run_dir, "learner").count(line) == 1
    assert not shm_file.exists()
    assert (run_dir / "replay" / "storage").exists() == (storage == "file")


@pytest.mark.parametrize("storage", ["shm", "memory"])
def test_a_run_in_threads_does_so_as_well(tmp_path: Path, shm_file: Path, storage: str) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=400, replay_storage=storage)
    run_dir = tmp_path / "run"
    with own_logging():
        assert launch(["--in-process", "--preset", preset, "--run-dir", str(run_dir)]) == 0
    assert result_of(run_dir)["learner_updates"] > 0
    line = BY_WIRE if storage == "memory" else f"transitions are read from {shm_file}"
    assert log_of(run_dir, "launcher").count(line) == 1
    assert not shm_file.exists()
    assert not (run_dir / "replay" / "storage").exists()


def test_who_insists_on_shared_memory_and_cannot_have_it_ends_the_launch(tmp_path: Path) -> None:
    preset = write_preset(
        tmp_path / "tiny.toml", replay_storage="memory", replay_link="shared_memory"
    )
    with own_logging(), pytest.raises(ConfigError, match="shared_memory is not possible"):
        launch(["--in-process", "--preset", preset, "--run-dir", str(tmp_path / "run")])


def test_in_shared_memory_it_outlives_its_server_and_ends_with_the_run(
    start: Start, tmp_path: Path, shm_file: Path
) -> None:
    run = launched(start, tmp_path, **ENDLESS_IN_SHARED_MEMORY)
    head, run_dir = head_of(run), tmp_path / "run"
    for restarts, number in enumerate((signal.SIGKILL, signal.SIGTERM), start=1):
        updates = status(head)["learner"]["updates"]
        before = status(head, updates_beyond(updates + 50))["learner"]
        os.kill(pid_of(run_dir, "replay_server"), number)
        until(lambda n=restarts: len(restored(run_dir)) > n, "the next replay server")
        # An insert may have been cut short.
        assert restored(run_dir)[restarts] >= before["table_size"] - 4 * 8
        status(head, updates_beyond(before["updates"] + 100))
    # The learner has read on: its mapping is that of the same file.
    learner = log_of(run_dir, "learner")
    assert learner.count(f"transitions are read from {shm_file}") == 1
    assert "over the wire" not in learner
    run.signal_group(signal.SIGINT)
    assert run.wait() == 130
    assert run.nothing_left()
    assert not shm_file.exists()


def killed_altogether(run: Command, run_dir: Path) -> None:
    """As when the machine runs out of memory: nobody gets to clean up."""
    psutil.Process(pid_of(run_dir, "replay_server")).suspend()
    run.kill_family()
    assert run.nothing_left()


def test_a_run_that_was_killed_altogether_finds_its_experience_and_a_new_one_does_not(
    start: Start, tmp_path: Path, shm_file: Path
) -> None:
    run_dir = tmp_path / "run"
    run = launched(start, tmp_path, **ENDLESS_IN_SHARED_MEMORY)
    before = status(head_of(run), updates_beyond(60))["learner"]
    killed_altogether(run, run_dir)
    assert shm_file.exists()

    resumed = start("deploy", "launch", "--resume", str(run_dir))
    status(head_of(resumed), updates_beyond(before["updates"]))
    # A checkpoint written between the look at it and its end would be beyond that already.
    until(lambda: len(restored(run_dir)) == 2, "the next replay server")
    assert restored(run_dir)[1] >= before["table_size"] - 4 * 8
    killed_altogether(resumed, run_dir)
    assert shm_file.exists()

    other = {**ENDLESS_IN_SHARED_MEMORY, "total_env_steps": 400}
    assert launched(start, tmp_path, "--overwrite", **other).wait() == 0
    assert restored(run_dir) == [0]
    assert not shm_file.exists()
