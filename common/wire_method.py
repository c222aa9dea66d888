"""By which method images travel on a link."""

from common import transport
from common.compression import DELTA


def wire_method(endpoint: str, compression: str) -> str:
    """The method for a link to that address, given what the configuration has for those between
    hosts: within one, compressing differences takes longer than sending them; within a process,
    nothing leaves it."""
    if endpoint.startswith("inproc://"):
        return "none"
    between_hosts = compression != "none" and not transport.is_local(endpoint)
    return f"{DELTA}+{compression}" if between_hosts else DELTA
