"""Key files: who may connect to a run, and how it proves to be that run.

    DIR/server.key          the run's secret key; whoever holds it is the run
    DIR/clients/NAME.pub    the allow-list: the public key of each client
    DIR/metrics.token       what Prometheus shows to read metrics from other hosts
    NAME.key                a client's secret key and the run's public one: all that a host needs

Keys are CURVE25519's (RFC 26 of ZeroMQ, CurveZMQ) in Z85 (RFC 32): 40 characters for 32 bytes.
Secret files are made for their owner's eyes alone, and not read when others could read them too.
"""

import contextlib
import os
import re
import secrets
import stat
import struct
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
import zmq.utils.z85

from common.errors import ConfigError

SERVER_FILE, CLIENTS, TOKEN_FILE = "server.key", "clients", "metrics.token"
PATH_VARIABLE, KEY_VARIABLE = "ZAPEX_KEYS", "ZAPEX_KEY"
"""Environment variables: a path as after --keys; the content of a key file."""
MAX_FILE_BYTES = 4_096
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """A process's own keypair and the public key of the run it belongs to, each in Z85."""

    source: str
    """Where they come from, for messages."""
    secret: bytes
    public: bytes
    server: bytes
    """The run's public key."""
    directory: Path | None = None
    """Whose allow-list says who else may connect; None: nobody."""

    @property
    def serves(self) -> bool:
        """Whether these are the run's own, with which its replay server and head listen."""
        return self.public == self.server

    def __repr__(self) -> str:
        return f"Keys({self.source})"


def open_keys(path: Path | None, environment: Mapping[str, str] = os.environ) -> Keys | None:
    """The keys of a path, or else of the environment, or else none.

    Raises ConfigError when there is no such file, others can read it, or it is no key file.
    """
    if path is not None:
        return _keys_at(path)
    named, given = environment.get(PATH_VARIABLE), environment.get(KEY_VARIABLE)
    if named and given:
        raise ConfigError(f"{PATH_VARIABLE} and {KEY_VARIABLE} are both set: unset one of them")
    if named:
        return _keys_at(Path(named))
    return _parse(given, f"${KEY_VARIABLE}", None) if given else None


def _keys_at(path: Path) -> Keys:
    directory = path if path.is_dir() else path.parent
    file = path / SERVER_FILE if path.is_dir() else path
    return _parse(read_secret(file), str(file), directory)


def _parse(text: str, source: str, directory: Path | None) -> Keys:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # What the parser would say may quote the key.
        raise _malformed(source) from error
    secret = _key(content, "secret", source)
    try:
        public = zmq.curve_public(secret)
    except zmq.ZMQError as error:
        raise _malformed(source) from error
    if "server" in content:
        return Keys(source, secret, public, _key(content, "server", source))
    return Keys(source, secret, public, public, directory)


def _key(content: Mapping[str, Any], name: str, source: str) -> bytes:
    try:
        key: bytes = content[name].encode("ascii")
        whole = len(zmq.utils.z85.decode(key)) == 32
    except (KeyError, AttributeError, ValueError, struct.error):
        whole = False
    if not whole:
        raise _malformed(source)
    return key


def _malformed(source: str) -> ConfigError:
    return ConfigError(
        f"{source} is no key file, or not a whole one: make it anew with python -m deploy keys"
    )


# ------------------------------------------------------------------------------------- secret files


def read_secret(path: Path) -> str:
    """A small file that nobody else can read. Raises ConfigError when there is none."""
    try:
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            return file.read(MAX_FILE_BYTES).decode()
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {path}: make a key directory with python -m deploy keys new DIR, or a "
            "client's key with python -m deploy keys add DIR NAME"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _malformed(str(path)) from error


def _check_private(path: Path, found: os.stat_result) -> None:
    """As PostgreSQL has it: nobody but the owner reads it; where root owns it (a secret that an
    orchestrator mounts), neither does anybody but its group."""
    others = stat.S_IRWXO | (stat.S_IRWXG if found.st_uid else 0)
    if stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) & others:
        raise ConfigError(
            f"{path} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}): chmod 600 it, "
            "and make a new one if anybody may have read it"
        )


def _write(path: Path, text: str, mode: int) -> None:
    """A new file of this mode from the beginning; one that is there stays as it is."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already: it is not overwritten") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink()
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


# -------------------------------------------------------------------------------- the key directory


def make_directory(directory: Path) -> None:
    """A run's key, a token for its metrics and an empty allow-list.

    Raises ConfigError when it is there already or cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / CLIENTS).mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be made: {error.strerror}") from error
    _, secret = zmq.curve_keypair()
    note = "# The secret key of a zapex run. Whoever reads this file can pretend to be the run.\n"
    _write(directory / SERVER_FILE, f'{note}secret = "{secret.decode()}"\n', 0o600)
    _write(directory / TOKEN_FILE, secrets.token_hex(16) + "\n", 0o600)


def add_client(directory: Path, name: str, file: Path) -> None:
    """Write a client's key file and put its public key on the allow-list.

    Raises ConfigError when the name is taken or none, or a file is there already.
    """
    listed = _listed(directory, name)
    source = directory / SERVER_FILE
    server = _parse(read_secret(source), str(source), directory).public
    if listed.exists():
        raise ConfigError(f"{name} is on the list of {directory} already: choose another name")
    public, secret = zmq.curve_keypair()
    note = f"# The zapex key of {name}. Whoever reads this file can join the run in its name.\n"
    # In this order: a file that was cut off must not look like a server's.
    text = f'{note}server = "{server.decode()}"\nsecret = "{secret.decode()}"\n'
    _write(file, text, 0o600)
    try:
        _write(listed, f'public = "{public.decode()}"\n', 0o644)
    except ConfigError:
        file.unlink()
        raise


def revoke_client(directory: Path, name: str) -> None:
    """Take a client off the allow-list. Raises ConfigError when it is not on it."""
    try:
        _listed(directory, name).unlink()
    except FileNotFoundError as error:
        names = ", ".join(sorted(clients(directory))) or "nobody"
        raise ConfigError(
            f"{name} is not on the list of {directory}, which allows {names}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{name} stays on the list of {directory}: {error.strerror}") from error


def clients(directory: Path) -> dict[str, bytes]:
    """The allow-list: public keys by name.

    Raises ConfigError for the first entry that is none, OSError when the list cannot be read.
    """
    with contextlib.suppress(FileNotFoundError):
        paths = sorted((directory / CLIENTS).iterdir())
        return {path.stem: public_key(path) for path in paths if path.suffix == ".pub"}
    return {}


def public_key(path: Path) -> bytes:
    """Of an entry of the allow-list. Raises ConfigError when it is none, OSError."""
    try:
        content = tomllib.loads(path.read_text())
    except ValueError as error:
        raise _malformed(str(path)) from error
    return _key(content, "public", str(path))


def metrics_token(keys: Keys | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """What a reader of metrics must show, if anything is known."""
    given = environment.get("ZAPEX_METRICS_TOKEN", "").strip()
    if given:
        return given
    if keys is None or keys.directory is None or not (keys.directory / TOKEN_FILE).exists():
        return None
    return read_secret(keys.directory / TOKEN_FILE).strip()


def _listed(directory: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a client: letters, digits, '.', '_' and '-', at most 64, a "
            "letter or digit first"
        )
    return directory / CLIENTS / f"{name}.pub"
