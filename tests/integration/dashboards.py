"""A dashboard as a command, and what it answers."""

import urllib.error
import urllib.request
from pathlib import Path

from tests.integration.conftest import Start
from tests.integration.runs import Command


def serve(start: Start, runs_dir: Path, *options: str) -> tuple[Command, str]:
    """A dashboard, and the address that it says."""
    command = start("deploy", "dashboard", str(runs_dir), "--port", "0", *options)
    return command, command.line("dashboard of ").split(" at ")[-1]


def fetch(address: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
