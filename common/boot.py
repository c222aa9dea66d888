"""Which kernel is running."""

from pathlib import Path


def boot_id() -> str | None:
    """Another one after each start of the machine, the same in all its containers. None where the
    system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
