"""Open files and connections: how many this process may have, and how many it needs."""

import resource

from common.errors import ConfigError

OWN = 64
"""What a process has open for itself, generously: libraries, logs, ZeroMQ's threads and sockets."""
ENOUGH = 65_536
"""The limit is not raised beyond this: some programs go through all numbers up to it."""


def raise_limit() -> int:
    """Allow this process as many as it may have; returns how many, −1: as many as it likes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # No limit is −1.
    wanted = ENOUGH if hard < 0 else min(hard, ENOUGH)
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft


def allow_descriptors(others: int, what: str) -> None:
    """Raise the limit of this process as far as it may be, and see that it is high enough.

    A process that runs out of them later goes on with the connections that it has; ZeroMQ takes new
    ones when others have gone.

    Args:
        others: connections and files beside its own few.
        what: the process, for the error message.

    Raises ConfigError when it is not.
    """
    soft = raise_limit()
    needed = OWN + others
    if 0 <= soft < needed:
        raise ConfigError(
            f"{what} needs {needed} open files and connections, and may have {soft}: raise the "
            f"limit (ulimit -n {needed}; docker and compose: ulimits nofile)"
        )
