"""Where a replay's memory comes from: this process, /dev/shm, or a file on a disk.

What does not fit is refused before anything is allocated.
"""

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from common.block_columns import HEADER_BYTES, MAGIC
from common.boot import boot_id
from common.errors import CheckpointError, RunDirectoryError, ZapexError

_IN_MEMORY = ("tmpfs", "ramfs")
"""File systems with no disk behind them."""
_GET_GENERATION = 0x80087601
"""Linux's FS_IOC_GETVERSION."""
_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_MEMORY_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)
"""Limit, use, and what of it gives way: of control groups version 2, and of version 1."""


def numbered(path: Path, number: int, servers: int) -> Path:
    """The storage file of one of a run's replay servers, all of which may be told the same path."""
    return path if servers == 1 else path.with_name(f"{path.name}-{number}")


def map_buffer(path: Path | None, nbytes: int, header: bytes, beside: int = 0) -> mmap.mmap:
    """`nbytes` bytes that begin with `header`, page-aligned, all reserved.

    Args:
        path: file to map; made if it is not there. None: memory of this process.
        beside: bytes of this process's memory that whoever draws from it will take, too.

    Raises:
        CheckpointError: the file begins with something else.
        RunDirectoryError: there can be no such file.
        ZapexError: there is no room.
    """
    where, advice = ("in memory", _LOWER) if path is None else (f"at {path}", _advice(path))
    try:
        if path is not None:
            return _map_file(path, nbytes, header, beside)
        _refuse_beyond(available_memory(), nbytes + beside, where, advice)
        return _private_memory(nbytes)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise ZapexError(_no_room(nbytes, where, advice)) from error
        raise unusable(where, error) from error


def refuse_together(replays: int, nbytes: int) -> None:
    """Raises ZapexError where so many replays of `nbytes` each do not fit into this host's memory.
    Memory counts as taken once it is written to: each of them alone would find room for itself."""
    if replays * nbytes > (free := available_memory()):
        raise ZapexError(
            f"no room for {replays} replays of {nbytes / 1e9:.2f} GB each in memory: {_LOWER} "
            f"({free / 1e9:.2f} GB are free)"
        )


def _private_memory(nbytes: int) -> mmap.mmap:
    # Not shared, as by default: only then do all kernels give pages of 2 MB to those who ask. There
    # are 512 times fewer of them to be made and to be found again, and rows are read at random.
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # A kernel without them.
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def home_of(path: Path) -> int:
    """Stands for the file and the running kernel, 62 bits. As long as it is the same, whatever was
    written to the file can be read from it, on the disk already or not; a copy, or the same file
    after a restart of the machine, has another one. It is the file's, not its content's: of what is
    copied over it in place, nobody can tell. 0: the system does not tell."""
    boot = boot_id()
    if boot is None:
        return 0
    status = path.stat()
    text = f"{boot} {status.st_dev} {status.st_ino} {_generation(path)}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 2


def _generation(path: Path) -> str:
    """Tells the file from a removed one whose inode it was given, as ext4 does at once; empty where
    the file system does not tell."""
    with path.open("rb") as file, contextlib.suppress(OSError):
        return fcntl.ioctl(file, _GET_GENERATION, bytes(8)).hex()
    return ""


def unusable(where: str, error: OSError) -> RunDirectoryError:
    """What is said of a place where there can be no replay."""
    return RunDirectoryError(
        f"cannot keep the replay {where} ({error.strerror}): choose another --storage or --run-dir"
    )


def _map_file(path: Path, nbytes: int, header: bytes, beside: int) -> mmap.mmap:
    path.parent.mkdir(parents=True, exist_ok=True)
    missing = nbytes - _reserved_bytes(path, header)
    _refuse_beyond(shutil.disk_usage(path.parent).free, missing, f"at {path}", _advice(path))
    if in_memory(path):
        _refuse_beyond(available_memory(), missing + beside, "in memory", _LOWER)
    else:
        where = f"in memory, beside {path}"
        _refuse_beyond(available_memory(), beside, where, "lower replay_capacity")
    with path.open("r+b" if path.exists() else "w+b") as file:
        # Reserves the space now: a disk that fills up later would kill the process (SIGBUS).
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, nbytes)
        else:
            file.truncate(nbytes)
        mapped = mmap.mmap(file.fileno(), nbytes)
    mapped[: len(header)] = header
    return mapped


def _reserved_bytes(path: Path, header: bytes) -> int:
    """Blocks of the disk that are the file's already."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        found = file.read(HEADER_BYTES).rstrip(b"\0")
        if found and found != header:
            raise CheckpointError(f"{path} {_difference(found, header)}")
        return os.fstat(file.fileno()).st_blocks * 512


def _difference(found: bytes, header: bytes) -> str:
    if not found.startswith(MAGIC):
        return "is no replay's file, or its beginning is damaged: remove it, or choose another one"
    if found.partition(b"\n")[0] != header.partition(b"\n")[0]:
        return (
            "holds experience in the format of another release: resume with that one, or remove "
            "the file to start without it"
        )
    return (
        "holds experience of another environment, block layout or capacity: resume with the run's "
        "own settings, or remove the file to start without it"
    )


def available_memory() -> int:
    """Bytes that this process may still take, limits of its container or job included."""
    return min([int(psutil.virtual_memory().available), *_left_in_cgroups()])


def _left_in_cgroups() -> Iterator[int]:
    for directory in _own_cgroups():
        for limit, used, reclaimable in _MEMORY_FILES:
            # Not this version, or no limit: "max" is no number.
            with contextlib.suppress(OSError, ValueError):
                most = int((directory / limit).read_text())
                taken = int((directory / used).read_text())
                statistics = (directory / "memory.stat").read_text().split()
                # The cache of files counts as used.
                cached = dict(zip(statistics[::2], statistics[1::2], strict=False))
                yield most - taken + sum(int(cached.get(name, 0)) for name in reclaimable)


def _own_cgroups() -> Iterator[Path]:
    """Directories of the control groups that bind this process's memory, innermost first."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUPS / "memory" if controllers else _CGROUPS
        # A container may be told a path of its host's, and have its own group at the root.
        inner = root / group.lstrip("/")
        yield from (inner, *(above for above in inner.parents if above.is_relative_to(root)))


_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.ENOMEM)
_LOWER = "lower replay_capacity, or keep the replay in a file (replay_storage = file)"


def _advice(path: Path) -> str:
    mount = _memory_file_system(path)
    if mount is None:
        return "free the space, choose another --storage, or lower replay_capacity"
    if mount == Path("/dev/shm"):
        return (
            "make /dev/shm larger (docker: --shm-size, compose: shm_size; it has 64 MB there by "
            "default), choose replay_storage = file, or lower replay_capacity"
        )
    return (
        f"make {mount}, which is memory, larger (docker-compose.yml: ZAPEX_REPLAY_MEMORY), choose "
        "another --storage, or lower replay_capacity"
    )


def in_memory(path: Path) -> bool:
    """Whether no disk is behind the file."""
    return _memory_file_system(path) is not None


def _memory_file_system(path: Path) -> Path | None:
    """Where the file's file system is mounted, if that is one of memory."""
    path = path.resolve()
    above = [
        (Path(mounted.mountpoint), mounted.fstype)
        for mounted in psutil.disk_partitions(all=True)
        if path.is_relative_to(mounted.mountpoint)
    ]
    # Of several mounted at the same place, which the last one hides, it is the last one.
    where, kind = max(reversed(above), key=lambda at: len(at[0].parts), default=(path, ""))
    return where if kind in _IN_MEMORY else None


def _refuse_beyond(free: int, wanted: int, where: str, advice: str) -> None:
    if wanted > free:
        raise ZapexError(f"{_no_room(wanted, where, advice)} ({free / 1e9:.2f} GB are free)")


def _no_room(nbytes: int, where: str, advice: str) -> str:
    return f"no room for a replay of {nbytes / 1e9:.2f} GB {where}: {advice}"
