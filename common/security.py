"""The keys of a process's sockets hang on their context: whoever makes a socket need not know."""

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import zmq

from common.authentication import Authenticator
from common.keys import Keys, open_keys

Context = zmq.Context[zmq.Socket[bytes]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Security:
    """What a process was told about who may reach it."""

    keys: Keys | None = None
    insecure: bool = False
    """Listen where other hosts can reach it, although there are no keys."""


NOTHING_TOLD = Security()
"""No keys, and nothing but this host reaches the process."""


def open_security(path: Path | None, *, insecure: bool = False) -> Security:
    """With the keys of a path, or of the environment. Raises ConfigError as `open_keys` does."""
    return Security(open_keys(path), insecure)


def announce(security: Security) -> None:
    """The first line of a process's log: what holds for it."""
    said = summary(security)
    if said:
        log.log(logging.INFO if security.keys else logging.WARNING, "%s", said)


def summary(security: Security) -> str:
    """One line; empty where only this host can connect, and no key is wanted."""
    if security.keys is not None:
        return f"keys of {security.keys.source}: connections are encrypted and authenticated"
    if security.insecure:
        return "INSECURE: no keys, anyone who reaches a port can read, write and join (--insecure)"
    return ""


class SecureContext(Context):
    """A ZeroMQ context whose sockets `common.transport` gives keys."""

    security: Security
    _authenticator: Authenticator | None
    _lock: threading.Lock

    def __init__(self, security: Security) -> None:
        super().__init__()
        self.security = security
        self._authenticator = None
        self._lock = threading.Lock()

    def authenticator(self, keys: Keys) -> Authenticator:
        """The one of this context, from the first call on."""
        with self._lock:
            if self._authenticator is None:
                self._authenticator = Authenticator(self, keys)
            return self._authenticator

    def destroy(self, linger: int | None = None) -> None:
        self._close_authenticator()
        super().destroy(linger)

    def term(self) -> None:
        self._close_authenticator()
        super().term()

    def _close_authenticator(self) -> None:
        with self._lock:
            authenticator, self._authenticator = self._authenticator, None
        if authenticator is not None:
            authenticator.close()

    @property
    def refused_peers(self) -> int:
        return self._authenticator.refused if self._authenticator else 0

    @property
    def revocations(self) -> int:
        return self._authenticator.revocations if self._authenticator else 0


def security_of(context: Context) -> Security:
    """A context that was told nothing has no keys and does not listen to other hosts."""
    return context.security if isinstance(context, SecureContext) else NOTHING_TOLD


def refused_peers(context: Context) -> int:
    """Handshakes that failed at this process's listening sockets."""
    return context.refused_peers if isinstance(context, SecureContext) else 0


def revocations(context: Context) -> int:
    """Grows when a client that this process allowed to connect is allowed no more."""
    return context.revocations if isinstance(context, SecureContext) else 0
