import tempfile
from collections.abc import Iterator

import pytest

from tests.contract.sockets import Sockets


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with Sockets() as sockets:
        yield sockets


@pytest.fixture(params=["tcp", "ipc", "inproc"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """A free address to bind to, on each transport."""
    # The path of a Unix socket has at most 107 bytes: too few for pytest's own directories.
    with tempfile.TemporaryDirectory() as directory:
        yield {
            "tcp": "tcp://127.0.0.1:0",
            "ipc": f"ipc://{directory}/socket",
            "inproc": "inproc://server",
        }[request.param]
