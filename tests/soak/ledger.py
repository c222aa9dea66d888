"""What actors sent and what was acknowledged to them: files of records that survive their writer.

Each record is one write of an actor's process to a file of its own, so the kernel has it when the
process is killed in the next moment. An acknowledgement that nobody lived to write down is no
claim.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SENT, ACKNOWLEDGED = 1, 2
RECORD = np.dtype(
    [
        ("what", "<i4"),
        ("blocks", "<i4"),
        ("session", "<i8"),
        ("sequence", "<i8"),
        ("time_s", "<f8"),
        ("digest", "<u8"),
    ]
)
"""`sequence`: of the insert sent, or the last of those acknowledged. `time_s`: as time.time()."""


def digest_of(columns: Iterable[npt.NDArray[Any]]) -> int:
    """Of an insert's obs, action, reward and row_kind, 64 bits."""
    digest = hashlib.blake2b(digest_size=8)
    for column in columns:
        digest.update(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data)
    return int.from_bytes(digest.digest(), "little")


class Writer:
    """One process's records."""

    def __init__(self, directory: Path, session: int) -> None:
        directory.mkdir(exist_ok=True)
        path = directory / f"{session}-{os.getpid()}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._session = session

    def sent(self, sequence: int, blocks: int, digest: int) -> None:
        self._write(SENT, sequence, blocks, digest)

    def acknowledged(self, sequence: int) -> None:
        self._write(ACKNOWLEDGED, sequence)

    def _write(self, what: int, sequence: int, blocks: int = 0, digest: int = 0) -> None:
        values = (what, blocks, self._session, sequence, time.time(), digest)
        os.write(self._file, np.array(values, RECORD).tobytes())

    def close(self) -> None:
        os.close(self._file)


class Reader:
    """Gives each record of a directory's files once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}

    def new(self) -> npt.NDArray[np.void]:
        """Records that were written since the last call, of each file in order."""
        parts = [np.empty(0, RECORD)]
        for path in sorted(self._directory.glob("*")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                content = file.read()
            whole = len(content) // RECORD.itemsize * RECORD.itemsize
            self._read[path] = self._read.get(path, 0) + whole
            parts.append(np.frombuffer(content[:whole], RECORD))
        return np.concatenate(parts)
