"""Hosts by ssh: the head here, actors on the hosts that a file names.

OpenSSH does all of it: names, users, ports, keys and jumps are those of ~/.ssh/config. What it
starts on a host holds its standard input by way of the connection: however the connection, this
process or its host goes, the commands there end.
"""

import shlex
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.config import read_toml
from common.errors import ConfigError
from common.run_directory import open_log
from deploy.engines.fleet import Ended, Fleet, last_words
from deploy.topology import actor_words, inference_words, replay_words, security_words

SSH = (
    "ssh", "-T",
    # Nobody is there to type a password.
    "-o", "BatchMode=yes",
    # A shared connection would outlive the command, and with it what the command started.
    "-o", "ControlMaster=no", "-o", "ControlPath=none",
    "-o", "ConnectTimeout=10",
    # A host that vanished is noticed after 15 s.
    "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3",
)  # fmt: skip

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@:%\[\]-]*$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HostTable(_Table):
    """What one host runs, and how."""

    name: Name
    """As ssh knows it: a name of ~/.ssh/config, USER@HOST."""
    dir: str = "."
    """Where zapex is there, from the user's home."""
    python: str = ".venv/bin/python"
    """From `dir`."""
    actors: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Actor processes; auto: one for each core."""
    relay: bool = False
    """One more process there takes the weights from the head for all its actors."""
    inference: bool = False
    """One process there computes the Q-values of all its actors, in a run with --inference host."""
    replay: str = ""
    """Where the run's replay server listens, if it is to be there: tcp://HOST:PORT as the others
    reach it."""
    storage: str = ""
    """File that keeps its experience, from `dir`; empty: memory."""
    keys: str = ""
    """Key file there, from `dir`, made by `python -m deploy keys add`."""
    options: list[str] = []
    """Further words for every command there."""
    env: dict[str, str] = {}
    """Environment variables there."""
    ssh: list[str] = []
    """Further options of ssh."""


class HeadTable(_Table):
    """What runs here."""

    bind: str = "tcp://0.0.0.0:5550"
    """Where the head listens, for the hosts to reach it."""
    address: str = ""
    """The name or address of this host as the others know it; empty: its host name."""
    actors: Annotated[int, Field(ge=0)] = 0
    """Actor processes on this host."""


class HostsFile(_Table):
    """A TOML file of hosts."""

    head: HeadTable = HeadTable()
    defaults: dict[str, Any] = {}
    """What holds for every host that does not say otherwise."""
    hosts: list[HostTable]

    @property
    def known_actors_elsewhere(self) -> int:
        """Actor processes on its hosts, as far as it gives their number."""
        return sum(host.actors for host in self.hosts if isinstance(host.actors, int))

    @property
    def replay_elsewhere(self) -> bool:
        return any(host.replay for host in self.hosts)


def read_hosts(path: Path) -> HostsFile:
    """Raises ConfigError, with the key and what is allowed, for a file that is none."""
    values = read_toml(path, "--hosts")
    defaults, hosts = values.get("defaults", {}), values.get("hosts", [])
    if isinstance(defaults, dict) and isinstance(hosts, list):
        values["hosts"] = [{**defaults, **h} if isinstance(h, dict) else h for h in hosts]
    try:
        file = HostsFile.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where}: {first['msg']} (got {first['input']!r})") from error
    names = [host.name for host in file.hosts]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: a host is named twice: {', '.join(sorted(names))}")
    if sum(bool(host.replay) for host in file.hosts) > 1:
        raise ConfigError(f"{path}: a run has one replay server: say replay for one host alone")
    for host in file.hosts:
        if host.relay and host.actors == 0:
            raise ConfigError(
                f"{path}: {host.name}: a relay is for the actors of its host: give it actors, or "
                "drop relay"
            )
    return file


class SshCommand:
    """A command on a host, for as long as the connection lasts."""

    def __init__(
        self, name: str, host: HostTable, words: Callable[[str], list[str]], log_file: Path
    ) -> None:
        self._name, self._host, self._words, self._log_file = name, host, words, log_file
        self._ssh: subprocess.Popen[bytes] | None = None
        self._began_at = 0
        """Where in the log its output begins."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def vital(self) -> bool:
        return self._name.endswith("replay_server")

    @property
    def acts(self) -> bool:
        return self._name.endswith("actors")

    def start(self, head: str) -> None:
        self.ask_to_stop()  # Its predecessor has ended; what is left of that is our end of a pipe.
        with open_log(self._log_file) as log:
            self._began_at = log.tell()
            self._ssh = self._spawn(self.command(head), log)

    def command(self, head: str) -> list[str]:
        """The words for this host."""
        host = self._host
        keys = ["--keys", host.keys] if host.keys else []
        words = [host.python, "-m", *self._words(head), "--stop-at-eof", *keys, *host.options]
        variables = [f"{key}={value}" for key, value in sorted(host.env.items())]
        there = ["env", *variables, *words] if variables else words
        # What follows the name is one line for the shell of that host.
        line = f"cd {shlex.quote(host.dir)} && exec {shlex.join(there)}"
        return [*SSH, *host.ssh, "--", host.name, line]

    def ended(self) -> Ended | None:
        if self._ssh is None or self._ssh.poll() is None:
            return None
        code = self._ssh.returncode
        return Ended(code, self._last_words() or f"ended with exit code {code}")

    def ask_to_stop(self) -> None:
        if self._ssh is not None and self._ssh.stdin is not None:
            self._ssh.stdin.close()

    def abandon(self) -> None:
        if self._ssh is not None:
            self.ask_to_stop()
            self._ssh.terminate()
            self._ssh.wait()
            self._ssh = None

    @staticmethod
    def _spawn(words: list[str], log: BinaryIO) -> "subprocess.Popen[bytes]":
        # A session of its own: Ctrl-C is for this process, which then ends the run in order.
        return subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )

    def _last_words(self) -> str:
        if not self._log_file.exists():  # Somebody has deleted it.
            return ""
        with self._log_file.open("rb") as log:
            return last_words(log, self._began_at).rstrip(".")


class Hosts:
    """The hosts of a file, which is read again when it changes.

    Args:
        logs: directory for what the commands say.
        say: prints a line for the user.
        actors_here: actor processes on this host.
    """

    def __init__(
        self,
        path: Path,
        logs: Path,
        say: Callable[[str], None],
        *,
        insecure: bool,
        actors_here: int,
    ) -> None:
        self._path, self._logs, self._say, self._insecure = path, logs, say, insecure
        self.file = read_hosts(path)
        self._changed_ns = path.stat().st_mtime_ns
        self._tables = {host.name: host for host in self.file.hosts}
        commands = [c for host in self.file.hosts for c in self.commands(host)]
        self._fleet = Fleet(commands, say, alone=actors_here == 0)

    def start(self, endpoint: str) -> None:
        """The head listens there: everybody is to join it."""
        port = urlsplit(endpoint).port
        host = self.file.head.address or socket.gethostname()
        self._fleet.start(f"tcp://{f'[{host}]' if ':' in host else host}:{port}")

    def poll(self) -> None:
        """See who ended, start them again, and take hosts in that were added to the file."""
        try:
            changed_ns = self._path.stat().st_mtime_ns
        except OSError:
            changed_ns = self._changed_ns
        if changed_ns != self._changed_ns:
            self._changed_ns = changed_ns
            self._take_changes()
        self._fleet.poll()

    def stop(self) -> None:
        self._fleet.stop()

    def _take_changes(self) -> None:
        try:
            tables = {host.name: host for host in read_hosts(self._path).hosts}
        except ConfigError as error:
            self._say(f"{error}: the hosts stay as they are")
            return
        gone = [h for h in self._tables.values() if tables.get(h.name) != h]
        new = [h for h in tables.values() if self._tables.get(h.name) != h]
        for command in [c for host in gone for c in self.commands(host)]:
            self._fleet.drop(command.name)
        for command in [c for host in new for c in self.commands(host)]:
            self._fleet.add(command)
        for what, some in (("left", gone), ("joined", new)):
            if some:
                self._say(f"{self._path}: {', '.join(h.name for h in some)} {what}")
        self._tables = tables

    def commands(self, host: HostTable) -> list[SshCommand]:
        """What is to run on that host."""
        commands: list[tuple[str, Callable[[str], list[str]]]] = []
        if host.replay:
            storage = Path(host.storage) if host.storage else None
            insecure = security_words(None, insecure=self._insecure)
            commands.append(
                (
                    "replay_server",
                    lambda head: [*replay_words(head, host.replay, storage), *insecure],
                )
            )
        if host.inference:
            commands.append(("inference", inference_words))
        if host.actors:
            commands.append(
                ("actors", lambda head: actor_words(head, host.actors, relay=host.relay))
            )
        return [
            SshCommand(f"{host.name} {role}", host, words, self._logs / f"{host.name}-{role}.log")
            for role, words in commands
        ]
