"""One replay server writes a storage file, and no other."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from common.file_lock import exclusive
from replay_server.placement import unusable

LAST_WRITER_S = 10.0
"""How long the server before this one may take to end: a little more than
`common.process.STOP_LIMIT_S`."""


@contextlib.contextmanager
def only_writer(path: Path | None) -> Iterator[None]:
    """Keep other replay servers off the file. None: there is nothing to share.

    Raises RunDirectoryError when another one writes it, or there can be no such file.
    """
    if path is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                exclusive(
                    path,
                    f"{path} is written by another replay server: stop that one, or choose "
                    "another --storage",
                    LAST_WRITER_S,
                )
            )
        except OSError as error:
            raise unusable(f"at {path}", error) from error
        try:
            yield
        finally:
            # Of a start that failed nothing stays.
            with contextlib.suppress(OSError):
                if not path.stat().st_size:
                    path.unlink()
