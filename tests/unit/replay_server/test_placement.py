"""What does not fit is refused in one line before anything is taken; what fits takes what it
said."""

import contextlib
import errno
import mmap
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from common.errors import CheckpointError, RunDirectoryError, ZapexError
from replay_server import placement
from replay_server.placement import (
    in_memory,
    map_buffer,
    numbered,
    refuse_together,
)

NBYTES = 64 << 10
HEADER = b"zapex replay 4\na header"
GB = 1_000_000_000

Usage = namedtuple("Usage", "total used free")
Mounted = namedtuple("Mounted", "mountpoint fstype")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Sets how much of a disk and of the memory is free, in bytes."""

    def set_free(disk: int = 1 << 50, memory: int = 1 << 50) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 50, 0, disk))
        monkeypatch.setattr(placement, "available_memory", lambda: memory)

    mount(monkeypatch, ("/", "ext4"), ("/dev/shm", "tmpfs"), (tmp_path / "ram", "tmpfs"))
    (tmp_path / "ram").mkdir()
    return set_free


def mount(monkeypatch: pytest.MonkeyPatch, *mounts: tuple[Path | str, str]) -> None:
    """File systems: where and of which kind, in the order in which they were mounted."""
    mounted = [Mounted(str(where), kind) for where, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounted)


SHM_ADVICE = (
    "make /dev/shm larger (docker: --shm-size, compose: shm_size; it has 64 MB there by default), "
    "choose replay_storage = file, or lower replay_capacity"
)
MEMORY_ADVICE = "lower replay_capacity, or keep the replay in a file (replay_storage = file)"
TMPFS_ADVICE = (
    "make RAM, which is memory, larger (docker-compose.yml: ZAPEX_REPLAY_MEMORY), choose another "
    "--storage, or lower replay_capacity"
)
DOES_NOT_FIT = f"/dev/shm/zapex-{os.getpid()}-that-does-not-fit"
"""Of this process alone: /dev/shm is everybody's."""
FILE_ADVICE = "free the space, choose another --storage, or lower replay_capacity"


@pytest.mark.usefixtures("nothing_taken")
@pytest.mark.parametrize(
    ("where", "disk", "memory", "line"),
    [
        (
            None,
            1 << 50,
            3 * GB,
            f"no room for a replay of 14.50 GB in memory: {MEMORY_ADVICE} (3.00 GB are free)",
        ),
        (
            "new/directory/replay",
            2 * GB,
            1 << 50,
            f"no room for a replay of 14.50 GB at PATH: {FILE_ADVICE} (2.00 GB are free)",
        ),
        (
            DOES_NOT_FIT,
            64_000_000,
            1 << 50,
            f"no room for a replay of 14.50 GB at PATH: {SHM_ADVICE} (0.06 GB are free)",
        ),
        (
            "ram/run/replay",
            8 * GB,
            1 << 50,
            f"no room for a replay of 14.50 GB at PATH: {TMPFS_ADVICE} (8.00 GB are free)",
        ),
        # Either may be larger than what is left of the memory that it is made of.
        (
            DOES_NOT_FIT,
            1 << 50,
            8 * GB,
            f"no room for a replay of 14.50 GB in memory: {MEMORY_ADVICE} (8.00 GB are free)",
        ),
        (
            "ram/run/replay",
            1 << 50,
            8 * GB,
            f"no room for a replay of 14.50 GB in memory: {MEMORY_ADVICE} (8.00 GB are free)",
        ),
    ],
    ids=[
        "memory",
        "file",
        "shm too small",
        "tmpfs too small",
        "shm larger than memory",
        "tmpfs larger than memory",
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_taken(
    tmp_path: Path, free: Any, where: str | None, disk: int, memory: int, line: str
) -> None:
    path = None if where is None else tmp_path / where
    free(disk, memory)
    with pytest.raises(ZapexError) as refused:
        map_buffer(path, 14_500_000_000, HEADER)
    assert str(refused.value) == line.replace("PATH", str(path)).replace(
        "RAM", str(tmp_path / "ram")
    )
    assert path is None or not path.exists()


@pytest.mark.parametrize("where", [None, "file", "ram/file"])
@pytest.mark.parametrize("short", [0, 1])
def test_it_fits_to_the_byte(tmp_path: Path, free: Any, where: str | None, short: int) -> None:
    path = None if where is None else tmp_path / where
    free(NBYTES - short, NBYTES - short)
    if short:
        with pytest.raises(ZapexError, match="no room"):
            map_buffer(path, NBYTES, HEADER)
        return
    buffer = map_buffer(path, NBYTES, HEADER)
    assert len(buffer) == NBYTES
    if path is not None:
        assert buffer[: len(HEADER)] == HEADER
        assert path.stat().st_size == NBYTES
        assert path.stat().st_blocks * 512 >= NBYTES  # Reserved, not only promised.


@pytest.mark.parametrize(
    ("mounts", "memory"),
    [
        ([("", "ext4")], False),
        ([("", "ext4"), ("run", "tmpfs")], True),
        ([("", "tmpfs"), ("run", "ext4")], False),
        ([("run", "tmpfs"), ("", "ext4")], True),
        ([("run", "tmpfs"), ("run", "ext4")], False),  # One hides the other.
        ([("run", "ext4"), ("run", "ramfs")], True),
        ([("run/replay", "tmpfs")], False),
        ([("ru", "tmpfs")], False),
        ([], False),  # A system that does not tell.
    ],
)
def test_a_file_is_memory_where_no_disk_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: list[tuple[str, str]], memory: bool
) -> None:
    mount(monkeypatch, *((tmp_path / where, kind) for where, kind in mounts))
    assert in_memory(tmp_path / "run" / "storage") == memory


def test_a_file_in_memory_is_found_through_a_link(tmp_path: Path, free: Any) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "ram")
    assert in_memory(tmp_path / "link" / "storage")


def test_this_systems_own_shared_memory_is_memory() -> None:
    assert in_memory(Path("/dev/shm/storage"))


@pytest.mark.parametrize(("servers", "fits"), [(1, True), (2, True), (3, False)])
def test_replays_of_one_host_must_fit_together(free: Any, servers: int, fits: bool) -> None:
    free(memory=16 * GB)
    with contextlib.nullcontext() if fits else pytest.raises(ZapexError) as refused:
        refuse_together(servers, 8 * GB)
    if not fits:
        assert str(refused.value) == (
            f"no room for 3 replays of 8.00 GB each in memory: {MEMORY_ADVICE} (16.00 GB are free)"
        )


def test_a_sparse_file_needs_the_room_that_it_does_not_have_yet(tmp_path: Path, free: Any) -> None:
    path = tmp_path / "replay"
    with path.open("wb") as file:
        file.write(HEADER)
        file.truncate(NBYTES)
    assert path.stat().st_blocks * 512 < NBYTES / 2
    free(disk=NBYTES // 2)
    with pytest.raises(ZapexError, match="no room"):
        map_buffer(path, NBYTES, HEADER)
    free(disk=NBYTES)
    map_buffer(path, NBYTES, HEADER)
    assert path.stat().st_blocks * 512 >= NBYTES


@pytest.mark.parametrize("where", ["file", "ram/file"])
def test_a_file_that_has_its_room_is_mapped_again_when_there_is_none_left(
    tmp_path: Path, free: Any, where: str
) -> None:
    path = tmp_path / where
    free()
    map_buffer(path, NBYTES, HEADER)[-4:] = b"kept"
    free(disk=0, memory=0)
    assert map_buffer(path, NBYTES, HEADER)[-4:] == b"kept"


def test_another_replays_file_is_refused_as_such_though_there_is_no_room_either(
    tmp_path: Path, free: Any
) -> None:
    path = tmp_path / "replay"
    path.write_bytes(b"zapex replay 4\nanother header")
    free(disk=0)
    with pytest.raises(CheckpointError, match="holds experience of another"):
        map_buffer(path, NBYTES, HEADER)


# ------------------------------------------------------------------- where nothing can be written


def test_a_directory_is_no_file_for_a_replay(tmp_path: Path, free: Any) -> None:
    free()
    with pytest.raises(RunDirectoryError) as refused:
        map_buffer(tmp_path, NBYTES, HEADER)
    assert str(refused.value) == (
        f"cannot keep the replay at {tmp_path} (Is a directory): choose another --storage or "
        "--run-dir"
    )


def test_a_directory_cannot_lie_below_a_file(tmp_path: Path, free: Any) -> None:
    free()
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "replay"
    with pytest.raises(RunDirectoryError, match=rf"cannot keep the replay at {path} \("):
        map_buffer(path, NBYTES, HEADER)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_what_the_system_refuses_is_said_in_one_line(
    tmp_path: Path, free: Any, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    free()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(RunDirectoryError, match=re.escape(f"({os.strerror(code)})")):
        map_buffer(tmp_path / "replay", NBYTES, HEADER)


def test_memory_that_the_system_refuses_is_no_room(
    free: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    free()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(ZapexError, match=r"no room for a replay of .* in memory: lower"):
        map_buffer(None, NBYTES, HEADER)


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has none"
)
def test_memory_asks_for_huge_pages() -> None:
    buffer = map_buffer(None, NBYTES, HEADER)
    begin = np.frombuffer(buffer, np.uint8).ctypes.data
    maps = Path("/proc/self/smaps").read_text()
    areas = re.findall(
        r"^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags: ([a-z0-9 ]+)$", maps, re.MULTILINE | re.DOTALL
    )
    # Neighbours of the same sort may be one area.
    (flags,) = (flags for low, high, flags in areas if int(low, 16) <= begin < int(high, 16))
    assert "hg" in flags.split()
    assert "sh" not in flags.split()  # Pages of shared memory are small unless the system says so.


def test_a_system_without_huge_pages_gives_memory_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As a kernel that was built without them: EINVAL.
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 1 << 20, raising=False)
    buffer = map_buffer(None, NBYTES, HEADER)
    buffer[-4:] = b"kept"
    assert buffer[-4:] == b"kept"


def test_of_several_replay_servers_each_has_a_file_of_its_own() -> None:
    path = Path("run/replay/storage")
    assert numbered(path, 0, servers=1) == path
    names = [numbered(path, number, servers=3) for number in range(3)]
    assert [str(name) for name in names] == [f"run/replay/storage-{n}" for n in range(3)]
