"""One process at a time in a run directory and over a storage file, until it ends or dies."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import file_lock, run_directory
from common.config import Config
from common.errors import RunDirectoryError
from common.file_lock import exclusive
from common.run_directory import LAUNCHER, LEARNER, held
from replay_server.only_writer import only_writer

HOLD = """
import fcntl, sys
with open(sys.argv[1], "a+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.readline()
"""


class Holder:
    """Another process that holds a file."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "held\n"

    def let_go(self) -> None:
        self._process.communicate("enough\n")

    def die(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def holding() -> Iterator[Callable[[Path], Holder]]:
    holders: list[Holder] = []

    def hold(path: Path) -> Holder:
        path.parent.mkdir(exist_ok=True)
        holders.append(Holder(path))
        return holders[-1]

    yield hold
    for holder in holders:
        holder.die()


def test_two_cannot_hold_it(tmp_path: Path, holding: Callable[[Path], Holder]) -> None:
    holding(tmp_path / "lock")
    with (
        pytest.raises(RunDirectoryError, match="stop that one"),
        exclusive(tmp_path / "lock", "stop that one"),
    ):
        raise AssertionError("held by two")


def test_who_dies_holds_nothing(tmp_path: Path, holding: Callable[[Path], Holder]) -> None:
    holding(tmp_path / "lock").die()
    for _ in range(2):
        with exclusive(tmp_path / "lock", "held by the dead"):
            pass


def test_the_next_one_waits_for_the_last_ones_end(
    tmp_path: Path, holding: Callable[[Path], Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = holding(tmp_path / "lock")
    tries = 0

    def try_again(_: float) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            holder.let_go()
        threading.Event().wait(0.001)

    monkeypatch.setattr(file_lock.time, "sleep", try_again)
    with exclusive(tmp_path / "lock", "too long", wait_s=60.0):
        assert tries >= 3


def test_a_body_that_fails_lets_go_and_its_error_stays_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="its own"), held(tmp_path, LEARNER):
            raise FileNotFoundError("its own")


def test_without_locks_in_a_file_system_it_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(file_lock.fcntl, "flock", refuse)
    with exclusive(tmp_path / "lock", ""):
        pass
    assert caplog.messages == [
        f"{tmp_path / 'lock'} cannot be locked here (No locks available): start only one"
    ]


@pytest.mark.parametrize("role", [LAUNCHER, LEARNER])
def test_a_run_has_one_of_each_role(
    tmp_path: Path, holding: Callable[[Path], Holder], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setattr(run_directory, "LAST_LEARNER_S", 0.0)
    holding(tmp_path / f"{role}.lock")
    with pytest.raises(RunDirectoryError) as refused, held(tmp_path, role):
        pass
    assert str(refused.value) == (
        f"{tmp_path} is in use by another {role}: stop that one, or choose another --run-dir"
    )
    # Nor is a run that goes on replaced.
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "00000001.safetensors").touch()
    with pytest.raises(RunDirectoryError, match="in use by another"):
        run_directory.create(tmp_path, Config(), overwrite=True)
    assert (tmp_path / "checkpoints" / "00000001.safetensors").exists()


def test_launcher_and_learner_of_a_run_do_not_exclude_each_other(
    tmp_path: Path, holding: Callable[[Path], Holder]
) -> None:
    holding(tmp_path / "launcher.lock")
    with held(tmp_path, LEARNER):
        pass


def test_a_directory_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with (
        pytest.raises(RunDirectoryError, match=r"cannot write to .*/none \(No such file"),
        held(tmp_path / "none", LEARNER),
    ):
        pass


def test_a_storage_file_has_one_writer(
    tmp_path: Path, holding: Callable[[Path], Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "replay"
    monkeypatch.setattr("replay_server.only_writer.LAST_WRITER_S", 0.0)
    holding(path)
    with pytest.raises(RunDirectoryError) as refused, only_writer(path):
        pass
    assert str(refused.value) == (
        f"{path} is written by another replay server: stop that one, or choose another --storage"
    )


def test_of_a_storage_that_was_never_made_nothing_stays(tmp_path: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), only_writer(tmp_path / "replay"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with only_writer(tmp_path / "replay"):
        (tmp_path / "replay").write_text("experience")
    assert (tmp_path / "replay").read_text() == "experience"


def test_where_no_file_can_be_it_is_said_in_the_words_of_the_storage(tmp_path: Path) -> None:
    with (
        pytest.raises(RunDirectoryError, match="choose another --storage or --run-dir"),
        only_writer(tmp_path),
    ):
        pass


def test_memory_has_no_other_writer() -> None:
    with only_writer(None), only_writer(None):
        pass
