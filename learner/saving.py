"""Checkpoints on a disk that may be full for a while.

A run of days must not end because its disk was full for a minute, and must not go on for days with
nothing kept. So a checkpoint that cannot be written is said loudly, and tried again when the next
one is due; after `MAX_FAILURES` in a row the run ends (docs/adr/0025-a-full-disk-is-waited-for.md).
"""

import logging
from collections.abc import Callable
from pathlib import Path

from common.errors import CheckpointError, RunDirectoryError
from learner.status import LearnerCounters

MAX_FAILURES = 10

log = logging.getLogger(__name__)


def save_or_put_off(
    write: Callable[[], None], run_dir: Path, counters: LearnerCounters, *, required: bool
) -> None:
    """Write a checkpoint, or put it off.

    Args:
        counters: show what is the matter, and how often in a row it was.
        required: there will be no next one, or none before.

    Raises:
        CheckpointError: it cannot be written, and that was the last time it was tried.
        RunDirectoryError: there is nothing left to write to.
    """
    try:
        write()
    except CheckpointError as error:
        if not run_dir.is_dir():
            raise RunDirectoryError(
                f"{run_dir} is gone: the run has no place left for what it learns"
            ) from error
        counters.failed_checkpoints += 1
        if required:
            raise
        if counters.failed_checkpoints >= MAX_FAILURES:
            raise CheckpointError(f"{error} ({MAX_FAILURES} times in a row)") from error
        counters.trouble = str(error)
        log.error("%s", error)
        return
    if counters.trouble:
        log.warning("checkpoints can be written again")
    counters.failed_checkpoints, counters.trouble = 0, ""
