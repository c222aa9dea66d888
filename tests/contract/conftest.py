import tempfile
from collections.abc import Iterator

import pytest
import zmq

from common.keys import Keys
from common.security import Security
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
