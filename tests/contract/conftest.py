import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from common.keys import Keys, add_client, make_directory
from common.security import Security
from tests.contract.keyed import Processes
from tests.contract.sockets import Sockets


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with Sockets() as sockets:
        yield sockets


@pytest.fixture(scope="session")
def keys() -> Keys:
    """A run's own."""
    public, secret = zmq.curve_keypair()
    return Keys("a test", secret, public, public)


@pytest.fixture(params=["tcp", "ipc", "inproc", "tcp with keys", "ipc with keys"])
def address(
    request: pytest.FixtureRequest, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A free address to bind to, on each transport, with keys and without."""
    transport, *with_keys = request.param.split(" ", 1)
    if with_keys:
        monkeypatch.setattr(Sockets, "security", Security(keys))
    # The path of a Unix socket has at most 107 bytes: too few for pytest's own directories.
    with tempfile.TemporaryDirectory() as directory:
        yield {
            "tcp": "tcp://127.0.0.1:0",
            "ipc": f"ipc://{directory}/socket",
            "inproc": "inproc://server",
        }[transport]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A run's keys; alice and bob are on its list."""
    make_directory(tmp_path / "keys")
    for name in ("alice", "bob"):
        add_client(tmp_path / "keys", name, tmp_path / f"{name}.key")
    return tmp_path / "keys"


@pytest.fixture
def processes() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def run(processes: contextlib.ExitStack, directory: Path) -> Processes:
    return Processes(processes, directory)
