"""A real OpenSSH server with its own port, keys and configuration, for one test."""

import contextlib
import getpass
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.waiting import wait_until

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None,
    reason="no OpenSSH here: apt-get install openssh-server openssh-client",
)


class SshServer:
    """Lets its own key in, as the user who runs the tests."""

    def __init__(self, directory: Path, address: str = "127.0.0.1", port: int = 0) -> None:
        self.address = address
        self.port = port or _free_port(address)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, prefix: Sequence[str] = ()) -> None:
        """`prefix`: words before the command, such as those that enter a network namespace."""
        directory = self._directory
        for name in ("host_key", "user_key"):
            if not (directory / name).exists():
                _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name))
        (directory / "sshd_config").write_text(
            f"ListenAddress {self.address}\nPort {self.port}\n"
            f"HostKey {directory}/host_key\nAuthorizedKeysFile {directory}/user_key.pub\n"
            "PermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nPidFile none\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        )
        # Where it looks for its privileges to drop; packages make it at boot.
        with contextlib.suppress(PermissionError):
            Path("/run/sshd").mkdir(exist_ok=True)
        with (directory / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, str(SSHD), "-D", "-e", "-f", f"{directory}/sshd_config"], stderr=log
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def client_config(self, names: Sequence[str]) -> str:
        """Of ssh: that these names are this server."""
        return (
            f"Host {' '.join(names)}\n  HostName {self.address}\n  Port {self.port}\n"
            f"  User {getpass.getuser()}\n  IdentityFile {self._directory}/user_key\n"
            "  IdentitiesOnly yes\n  StrictHostKeyChecking no\n"
            f"  UserKnownHostsFile {self._directory}/known_hosts\n"
        )


@contextlib.contextmanager
def ssh_server(directory: Path) -> Iterator[SshServer]:
    """One on loopback that listens."""
    server = SshServer(directory)
    server.start()
    try:
        wait_until(lambda: _listens(server), "sshd listens")
        yield server
    finally:
        server.stop()


def _listens(server: SshServer) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((server.address, server.port)) == 0


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
