"""One process at a time: a lock that the kernel takes back from whoever dies."""

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from common.errors import RunDirectoryError

_TRY_AGAIN_S = 0.05
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)

log = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(path: Path, refusal: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a file, made if it is not there, for as long as this lasts.

    Args:
        refusal: what is said when another process holds it.
        wait_s: how long to wait for that process's end.

    Raises:
        RunDirectoryError: it is held for longer.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(descriptor, path, refusal, time.monotonic() + wait_s)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, refusal: str, deadline_s: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise RunDirectoryError(refusal) from None
            time.sleep(_TRY_AGAIN_S)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning("%s cannot be locked here (%s): start only one", path, error.strerror)
            return
