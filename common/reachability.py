"""Why nobody answers at an address: what this host can find out about it by itself."""

import socket
from urllib.parse import urlsplit

PROBE_S = 1.0
"""How long one attempt to connect may take."""


def why_silent(address: str) -> str:
    """What is wrong with the way to a head that does not answer, and what to do.

    Looks the name up and tries to connect, which takes up to `PROBE_S` for each of its addresses.

    Args:
        address: tcp://HOST:PORT, or an address within this host.
    """
    if not address.startswith("tcp://"):
        return "is the learner running, and is this its address?"
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or 0
    try:
        with socket.create_connection((host, port), timeout=PROBE_S):
            return (
                "somebody listens there: is it the learner of the same zapex release, and has its "
                "replay server started?"
            )
    except socket.gaierror:
        return f"the name {host} does not resolve here: check its spelling, DNS or /etc/hosts"
    except ConnectionRefusedError:
        return f"nobody listens at port {port} there: is the learner running, is this its port?"
    except OSError as error:
        what = "its host does not answer" if isinstance(error, TimeoutError) else error.strerror
        return f"{what}: is the host up, and does a firewall let port {port} through?"
