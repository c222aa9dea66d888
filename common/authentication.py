"""Who may stay and who may not: the side that listens asks here at every handshake.

ZeroMQ asks over a socket of the same context (ZAP, RFC 27), and its reader is a thread: a loop that
is busy must not keep peers waiting, and handshakes must not keep the loop. The thread also reads
the allow-list anew when it changes, and counts who was refused.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import zmq
import zmq.utils.monitor
import zmq.utils.z85

from common.errors import ConfigError
from common.keys import CLIENTS, Keys, public_key

RUN, HOST = b"run", b"host"
"""Domains: a socket for all clients of the run, or only for processes with the same key."""
READ_PERIOD_S = 0.5
"""Between two looks at the allow-list. A key that is not on it is looked for at once."""
SAY_PERIOD_S = 60.0
"""The same refusal is not logged again for so long."""
MAX_SAID = 1_000
ZAP_ADDRESS = "inproc://zeromq.zap.01"
_REASONS: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "it shows no key",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "its key does not fit this server's",
}

_Signature = tuple[int, int, int] | None
"""Of a file; None: it could not be read."""

log = logging.getLogger(__name__)


class Authenticator:
    """Serves one context, from before its first socket listens until nobody uses its sockets.

    While there is no answer handshakes wait: if this thread failed, nobody would be let in.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys) -> None:
        self.refused = 0
        """Handshakes that failed so far."""
        self.revocations = 0
        """Grows when a key that was allowed is allowed no more; by then it is refused."""
        self._own = zmq.utils.z85.decode(keys.public)
        self._list = AllowList(keys.directory) if keys.serves and keys.directory else None
        self._said: dict[str, float] = {}
        self._monitors: list[zmq.Socket[bytes]] = []
        self._requests = context.socket(zmq.REP)
        self._requests.linger = 0
        self._requests.bind(ZAP_ADDRESS)
        end = f"inproc://authentication-{id(self)}"
        self._end, self._ended = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        self._end.bind(end)
        self._ended.connect(end)
        self._thread = threading.Thread(target=self._run, name="authentication", daemon=True)
        self._thread.start()

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        """Count the handshakes that fail at this listening socket."""
        self._monitors.append(
            socket.get_monitor_socket(
                zmq.EVENT_HANDSHAKE_FAILED_AUTH
                | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
                # Whoever sees first that the two do not fit hangs up; often that is the peer.
                | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
                | zmq.EVENT_MONITOR_STOPPED
            )
        )

    def close(self) -> None:
        """Called when the context is about to be closed."""
        self._end.send(b"")
        self._thread.join()
        self._end.close()

    def _run(self) -> None:
        try:
            while True:
                sockets = (self._ended, self._requests, *self._monitors)
                sources = [(socket, zmq.POLLIN) for socket in sockets]
                ready = [source for source, _ in zmq.zmq_poll(sources, round(READ_PERIOD_S * 1e3))]
                if self._ended in ready:
                    return
                if self._requests in ready:
                    self._answer(self._requests.recv_multipart())
                for monitor in [monitor for monitor in self._monitors if monitor in ready]:
                    self._note(monitor)
                self._read_list(time.monotonic())
        finally:
            for socket in (self._ended, self._requests, *self._monitors):
                socket.close(linger=0)

    def _answer(self, request: list[bytes]) -> None:
        version, number, domain, address, _, mechanism, *credentials = request
        key = credentials[0] if mechanism == b"CURVE" and credentials else b""
        enters = self._may_connect(domain, key)
        status, text = (b"200", b"OK") if enters else (b"400", b"unknown key")
        if not enters:
            self._say(f"at {address.decode(errors='replace') or 'this host'}: its key is unknown")
        # Without a user id: libzmq puts one into the queue of messages, where it takes up a place.
        self._requests.send_multipart([version, number, status, text, b"", b""])

    def _may_connect(self, domain: bytes, key: bytes) -> bool:
        """Whether who holds the key may."""
        if key == self._own:
            return True
        if domain != RUN or self._list is None:
            return False
        if key not in self._list.names:
            # It may have been made a moment ago.
            self._read_list(float("inf"))
        return key in self._list.names

    def _read_list(self, now_s: float) -> None:
        if self._list is not None and self._list.read(now_s):
            self.revocations += 1

    def _note(self, monitor: zmq.Socket[bytes]) -> None:
        """A handshake failed, or the monitored socket was closed."""
        event = zmq.utils.monitor.recv_monitor_message(monitor)
        if event["event"] == zmq.EVENT_MONITOR_STOPPED:
            self._monitors.remove(monitor)
            monitor.close()
            return
        self.refused += 1
        if event["event"] == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            reason = _REASONS.get(event["value"], "it does not keep to the protocol")
            self._say(f"at {event['endpoint'].decode()}: {reason}")

    def _say(self, what: str) -> None:
        now_s = time.monotonic()
        if now_s - self._said.get(what, float("-inf")) < SAY_PERIOD_S:
            return
        if len(self._said) >= MAX_SAID:
            self._said.clear()
        self._said[what] = now_s
        log.warning("refused a peer %s", what)


class AllowList:
    """The public keys (32 bytes each) of a key directory's clients, and their names."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / CLIENTS
        self._seen: Mapping[str, _Signature] = {}
        self._next_s = float("-inf")
        self._unreadable = ""
        self.names: dict[bytes, str] = {}
        self.read(float("inf"))

    def read(self, now_s: float) -> bool:
        """Take over what changed. Whether somebody who was allowed is no more.

        Looks every READ_PERIOD_S of the monotonic clock `now_s`, or at infinity.
        """
        if now_s < self._next_s:
            return False
        if now_s != float("inf"):
            self._next_s = now_s + READ_PERIOD_S
        try:
            found = self._signatures()
            if found == self._seen:
                return False
            names = self._read_all(found)
        except OSError as error:
            # A file system that does not answer must not put everybody out.
            self._complain(f"{self._directory} cannot be read: {error.strerror}")
            return False
        self._seen, before, self.names = found, self.names, names
        gone = [name for key, name in before.items() if key not in names]
        if gone:
            log.warning("no longer allowed: %s", ", ".join(sorted(gone)))
        return bool(gone)

    def _signatures(self) -> dict[str, _Signature]:
        """What tells whether a file is another one than before."""
        found: dict[str, _Signature] = {}
        paths: list[Path] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            paths = [Path(entry.path) for entry in entries]
        for path in paths:
            # One that is gone by now, or a link that leads nowhere, is nobody's key.
            with contextlib.suppress(FileNotFoundError):
                if path.suffix == ".pub":
                    # Of what a symbolic link leads to: orchestrators mount such.
                    stat = path.stat()
                    found[path.stem] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return found

    def _read_all(self, found: dict[str, _Signature]) -> dict[bytes, str]:
        """The keys in these files. One that cannot be read stays what it was, if it was one: the
        others must not wait for it. It loses its signature, and so is tried again."""
        keys = {}
        before = {name: key for key, name in self.names.items()}
        for name in found:
            path = self._directory / f"{name}.pub"
            try:
                keys[zmq.utils.z85.decode(public_key(path))] = name
            except FileNotFoundError:
                continue
            except ConfigError as error:
                self._complain(str(error))
            except OSError as error:
                found[name] = None
                if name in before:
                    keys[before[name]] = name
                self._complain(f"{path} cannot be read: {error.strerror}")
        return keys

    def _complain(self, what: str) -> None:
        if what != self._unreadable:
            self._unreadable = what
            log.warning("allow-list: %s", what)
