"""Commands that end with their test, and a run that has ended."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from common import run_directory
from common.config import Config
from deploy.deterministic import run_deterministic
from deploy.in_process import run_in_process
from deploy.live_view import LiveView
from tests.integration.runs import TINY, Command, own_logging
from tests.made_runs import make_finished_run

Start = Callable[..., Command]
InProcess = Callable[..., Path]

DISK = "1m"
"""Room for the replay of a tiny run and for some dozens of its checkpoints."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `python -m WORDS` in the test's directory; whatever is left at the end is killed."""
    commands: list[Command] = []

    def start(*words: str, within: Sequence[str] = ()) -> Command:
        commands.append(Command(tmp_path, *words, within=within))
        return commands[-1]

    yield start
    for command in commands:
        command.kill_family()


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Three finished runs, one of them with a video."""
    for i in range(3):
        make_finished_run(tmp_path / "runs" / f"cartpole-{i}", i, seconds=90, ended_s=1e9 + i)
    return tmp_path / "runs"


@pytest.fixture
def full_soon(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk that holds hardly anything."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk needs the right to mount one: {error}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="session")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> InProcess:
    """Runs a configuration in threads of this process; returns the run's directory."""
    return _runner(run_in_process, tmp_path_factory)


@pytest.fixture(scope="session")
def deterministic(tmp_path_factory: pytest.TempPathFactory) -> InProcess:
    """Runs a configuration in this process's one thread; returns the run's directory."""
    return _runner(run_deterministic, tmp_path_factory)


def _runner(run_roles: Callable[..., None], directories: pytest.TempPathFactory) -> InProcess:
    def run(config: Config, resume: Path | None = None, run_dir: Path | None = None) -> Path:
        run_dir = resume or run_dir or directories.mktemp("run")
        if resume is None:
            run_directory.create(run_dir, config)
        with own_logging(), LiveView(str(run_dir)) as view:
            run_roles(
                config,
                run_dir,
                resume=resume is not None,
                started_s=time.monotonic(),
                log_level="info",
                stop=threading.Event(),
                view=view,
            )
        return run_dir

    return run


@pytest.fixture(scope="session")
def finished_run(in_process: InProcess) -> Path:
    """Directory of a run that spent its budget. For reading: copy it to do more."""
    return in_process(Config(**TINY))
