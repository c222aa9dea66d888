"""Where a replay's memory comes from: this process, /dev/shm, or a file on a disk.

What does not fit is refused before anything is allocated.
"""

import errno
import mmap
import os
import shutil
from pathlib import Path

import psutil

from common.block_columns import HEADER_BYTES
from common.errors import CheckpointError, ZapexError

SHARED_MEMORY = Path("/dev/shm")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CGROUP_USED = Path("/sys/fs/cgroup/memory.current")


def map_buffer(path: Path | None, nbytes: int, header: bytes) -> mmap.mmap:
    """`nbytes` bytes that begin with `header`, page-aligned, all reserved.

    Args:
        path: file to map; made if it is not there. None: memory of this process.

    Raises:
        CheckpointError: the file begins with something else.
        ZapexError: there is no room.
    """
    if path is None:
        _refuse_beyond(available_memory(), nbytes, "in memory", _LOWER)
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            # Rows are read all over it, and would each miss the cache of page addresses, too.
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memory
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "w+b") as file:
        found = file.read(HEADER_BYTES).rstrip(b"\0")
        if found and found != header:
            raise CheckpointError(
                f"{path} holds experience of another environment, block layout or capacity: "
                "resume with the run's own settings, or remove the file to start without it"
            )
        # Blocks of the disk that are the file's already.
        missing = nbytes - os.fstat(file.fileno()).st_blocks * 512
        _refuse_beyond(shutil.disk_usage(path.parent).free, missing, f"at {path}", _advice(path))
        if _in_shared_memory(path):
            _refuse_beyond(available_memory(), missing, "in memory", _LOWER)
        try:
            # Reserves the space now: a disk that fills up later would kill the process (SIGBUS).
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, nbytes)
            else:
                file.truncate(nbytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise ZapexError(_no_room(nbytes, f"at {path}", _advice(path))) from error
            raise
        mapped = mmap.mmap(file.fileno(), nbytes)
    mapped[: len(header)] = header
    return mapped


def available_memory() -> int:
    """Bytes that this process may still take, its container's limit included."""
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = _CGROUP_LIMIT.read_text().strip(), int(_CGROUP_USED.read_text())
    except (OSError, ValueError):
        return available
    return available if limit == "max" else min(available, int(limit) - used)


_LOWER = "lower replay_capacity, or keep the replay in a file (replay_storage = file)"


def _advice(path: Path) -> str:
    if _in_shared_memory(path):
        return (
            "make /dev/shm larger (docker: --shm-size, compose: shm_size; it has 64 MB there by "
            "default), choose replay_storage = file, or lower replay_capacity"
        )
    return "free the space, choose another --storage, or lower replay_capacity"


def _in_shared_memory(path: Path) -> bool:
    return path.resolve().is_relative_to(SHARED_MEMORY)


def _refuse_beyond(free: int, wanted: int, where: str, advice: str) -> None:
    if wanted > free:
        raise ZapexError(f"{_no_room(wanted, where, advice)} ({free / 1e9:.2f} GB are free)")


def _no_room(nbytes: int, where: str, advice: str) -> str:
    return f"no room for a replay of {nbytes / 1e9:.2f} GB {where}: {advice}"
