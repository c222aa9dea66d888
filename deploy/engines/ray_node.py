"""What Ray runs on a node: one command, as a process of its own."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.engines.fleet import last_words


class NodeCommand:
    """Runs one command on the node where Ray put it. Its methods are called over Ray."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def node(self) -> tuple[str, int]:
        """The node's address as the others know it, and the first of two ports that are free."""
        import ray

        return ray.util.get_node_ip_address(), _free_ports()

    def run(
        self, words: list[str], directory: str, log_file: str, environment: dict[str, str]
    ) -> tuple[int, str]:
        """Run `python -m WORDS` until it ends; its exit code and its last line.

        Args:
            environment: further variables for the command.
        """
        if self._stopped:
            return 0, ""
        directory = directory if Path(directory).is_dir() else "."
        with _open_log(Path(log_file)) as log:
            began_at = log.tell()
            with subprocess.Popen(
                [sys.executable, "-m", *words, "--stop-at-eof"],
                cwd=directory,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            ) as self._process:
                # Leaving this block would close its input, and so end it.
                code = self._process.wait()
            return code, last_words(log, began_at)

    def stop(self) -> None:
        """End the command in order; `run` returns when it has."""
        self._stopped = True
        if self._process is not None:
            self._process.terminate()


@contextlib.contextmanager
def _open_log(path: Path) -> Iterator[Any]:
    """The log in the run's directory or, on a node that does not see that, among Ray's own."""
    try:
        file = path.open("a+b")
    except OSError:
        file = (Path("/tmp/ray/session_latest/logs") / f"zapex-{path.name}").open("a+b")
    with file:
        yield file


def _free_ports() -> int:
    """The first of two neighbouring ports that nobody uses: for the head and its weights."""
    for _ in range(100):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            first = stack.enter_context(socket.create_server(("", 0)))
            port: int = first.getsockname()[1]
            stack.enter_context(socket.create_server(("", port + 1)))
            return port
    raise OSError("no two free ports in a row")
