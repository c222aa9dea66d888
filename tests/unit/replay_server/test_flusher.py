"""A file is brought to the disk again and again, and a disk that refuses ends nothing."""

import mmap
import os
import re
import threading
from pathlib import Path

import pytest

from replay_server import flusher
from replay_server.flusher import NO_FLUSHER, Flusher
from tests.waiting import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "replay"
    path.write_bytes(bytes(mmap.PAGESIZE))
    return path


FLUSH_S = 1 / 64


class Disk:
    """Takes what is flushed, or refuses."""

    now_s = 100.0
    """A clock that goes on while something is flushed, and else stands still."""

    def __init__(self) -> None:
        self.flushes: list[int] = []
        """Inodes of the files, one for each flush."""
        self.refusals: list[OSError] = []
        """Errors of the next flushes, the last one first."""

    def flush(self, descriptor: int) -> None:
        self.flushes.append(os.fstat(descriptor).st_ino)
        self.now_s += FLUSH_S
        if self.refusals:
            raise self.refusals.pop()

    def await_flushes(self, count: int) -> None:
        wait_until(lambda: len(self.flushes) >= count, f"{count} flushes")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(flusher.os, "fdatasync", disk.flush)
    return disk


def test_the_file_is_flushed_again_and_again_until_the_end(path: Path, disk: Disk) -> None:
    with Flusher(path, 0.001):
        disk.await_flushes(5)
    count = len(disk.flushes)
    assert set(disk.flushes) == {path.stat().st_ino}
    assert not [thread for thread in threading.enumerate() if thread.name == "flusher"]
    assert len(disk.flushes) == count


def test_the_end_need_not_wait_for_the_next_flush(path: Path, disk: Disk) -> None:
    with Flusher(path, 3_600.0):
        pass
    assert disk.flushes == []


def test_the_age_of_the_last_flush_counts_from_its_beginning(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher.time, "monotonic", lambda: disk.now_s)
    flushing = Flusher(path, 0.001)
    disk.now_s += 7.0
    assert flushing.unflushed_s == 7.0
    with flushing:
        disk.await_flushes(1)
    assert flushing.unflushed_s == FLUSH_S
    disk.now_s += 2.0
    assert flushing.unflushed_s == 2.0 + FLUSH_S


def test_a_disk_that_refuses_is_said_and_tried_again(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it refused stays unflushed."""
    monkeypatch.setattr(flusher.time, "monotonic", lambda: disk.now_s)
    disk.refusals += [OSError(5, "Input/output error")] * 2
    flushing = Flusher(path, 0.001)
    disk.now_s += 7.0
    with flushing:
        disk.await_flushes(3)
    line = (
        f"{path} cannot be written to the disk (Input/output error): a power failure would take "
        "the experience of the last 7 s; check the disk"
    )
    assert caplog.messages == [line, line]
    assert flushing.unflushed_s == FLUSH_S


def dirty_bytes(path: Path) -> int:
    """Of this process's mapping of a file, as the kernel tells."""
    own = Path("/proc/self/smaps").read_text().partition(f" {path}\n")[2]
    return 1024 * sum(map(int, re.findall(r"(?:Shared|Private)_Dirty: +(\d+) kB", own)[:2]))


def test_what_was_changed_through_a_mapping_is_written_as_well(path: Path) -> None:
    with path.open("rb+") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:5] = b"there"
        os.fdatasync(file.fileno())
        if dirty_bytes(path):
            pytest.skip("no disk is behind this directory")
        mapped[:5] = b"again"
        assert dirty_bytes(path) == mmap.PAGESIZE
        with Flusher(path, 0.001):
            wait_until(lambda: dirty_bytes(path) == 0, "a clean mapping")


def test_memory_is_not_flushed() -> None:
    with NO_FLUSHER:
        assert NO_FLUSHER.unflushed_s == 0.0
