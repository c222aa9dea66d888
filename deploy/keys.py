"""`python -m deploy keys`: make a run's keys, and say who may connect to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg, subcommand

from common.errors import ConfigError
from common.keys import SERVER_FILE, add_client, clients, make_directory, revoke_client

Directory = Annotated[Positional[Path], arg(metavar="DIR")]
Name = Annotated[Positional[str], arg(metavar="NAME")]


@dataclass
class New:
    """Make a key directory: the run's secret key, and an empty list of clients."""

    directory: Directory
    """Where; only you will be able to read it."""


@dataclass
class Add:
    """Make a client's key: one for each host, or person, that is to join or watch the run."""

    directory: Directory
    """The run's key directory."""
    name: Name
    """Of the client, as it will stand on the list."""
    file: Path | None = None
    """Where its key file goes, all that the client needs. None: NAME.key, here."""


@dataclass
class List:
    """Who may connect, and which keys they hold."""

    directory: Directory
    """The run's key directory."""


@dataclass
class Revoke:
    """Cut a client off: at once if it is connected, and for good."""

    directory: Directory
    """The run's key directory."""
    name: Name
    """Of the client."""


COMMANDS: Any = (
    Annotated[New, subcommand("new")]
    | Annotated[Add, subcommand("add")]
    | Annotated[List, subcommand("list")]
    | Annotated[Revoke, subcommand("revoke")]
)


def keys(argv: list[str]) -> int:
    """Returns the exit code. Raises ConfigError when it cannot be done, and why."""
    words = [word for word in argv if word != "--debug"]
    command = tyro.cli(
        COMMANDS,
        args=words,
        prog="python -m deploy keys",
        description="Keys of a run: who may connect to it.",
    )
    print(_done(command), flush=True)
    return 0


def _done(command: New | Add | List | Revoke) -> str:
    directory = command.directory
    match command:
        case New():
            make_directory(directory)
            return (
                f"{directory} is the key directory of your runs, and their secret.\n"
                f"  python -m deploy launch --keys {directory} --bind tcp://0.0.0.0:5550\n"
                f"  python -m deploy keys add {directory} NAME, once for each host that is to join"
            )
        case Add(name=name, file=given):
            file = given or Path(f"{name}.key")
            add_client(directory, name, file)
            return (
                f"{name} may connect. Carry {file} there by a safe way (scp) and remove it here.\n"
                f"  python -m actor --connect tcp://HEAD:5550 --keys {file.name}"
            )
        case Revoke(name=name):
            revoke_client(directory, name)
            return f"{name} is cut off, from every process that reads {directory}, within seconds"
        case List():
            return _table(directory)


def _table(directory: Path) -> str:
    if not (directory / SERVER_FILE).exists():
        raise ConfigError(f"{directory} is no key directory: it has no {SERVER_FILE}")
    try:
        listed = clients(directory)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be read: {error.strerror}") from error
    if not listed:
        return f"nobody but {directory}'s own processes: python -m deploy keys add {directory} NAME"
    width = max(map(len, listed))
    return "\n".join(f"{name:{width}}  {key.decode()}" for name, key in listed.items())
