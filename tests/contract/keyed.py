"""Processes with and without a run's keys."""

import contextlib
from dataclasses import replace
from pathlib import Path

import zmq

from common.keys import Keys, make_directory, open_keys
from common.security import Security
from tests.contract.sockets import Sockets


def keys_at(path: Path) -> Keys:
    found = open_keys(path, {})
    assert found is not None
    return found


class Processes:
    """Processes with keys of their own, as far as their sockets know."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        self._stack, self._directory = stack, directory

    def of(self, who: str) -> Sockets:
        """server, nobody (no keys), foreign (of another run) or a client's name."""
        return self._stack.enter_context(Sockets(Security(self.keys(who))))

    def keys(self, who: str) -> Keys | None:
        if who == "nobody":
            return None
        if who == "server":
            return keys_at(self._directory)
        if who == "foreign":
            make_directory(self._directory.parent / "foreign")
            return keys_at(self._directory.parent / "foreign")
        if who == "unlisted":
            # Knows the server, and made a key for itself.
            public, secret = zmq.curve_keypair()
            return replace(
                keys_at(self._directory.parent / "alice.key"), secret=secret, public=public
            )
        return keys_at(self._directory.parent / f"{who}.key")
