"""A Docker engine, and Docker Compose of whichever generation there is."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.monitoring import ROOT
from tests.waiting import wait_until

COMPOSE_FILE = ROOT / "deploy" / "docker-compose.yml"
ENGINE_START_S = 60.0
COMMANDS = (("docker", "compose"), ("docker-compose",))
"""Of Compose v2, and of docker-compose 1.29."""


def run(*words: str, check: bool = True, environment: dict[str, str] | None = None) -> str:
    """What a command prints. Raises AssertionError with all of it if it fails and `check`."""
    done = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0 or not check, f"{' '.join(words)}:\n{done.stdout}"
    return done.stdout


def answers(*words: str) -> bool:
    """Whether there is such a command, and it ends well."""
    if shutil.which(words[0]) is None:
        return False
    return subprocess.run(words, capture_output=True).returncode == 0


def compose_commands() -> list[tuple[str, ...]]:
    """Those that there are."""
    return [command for command in COMMANDS if answers(*command, "version")]


@contextlib.contextmanager
def engine(directory: Path) -> Iterator[None]:
    """One that answers: the machine's, or one of our own, which ends with this."""
    if answers("docker", "info"):
        yield
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        pytest.skip("no Docker engine answers, and to start one takes dockerd and root")
    with (directory / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(["dockerd"], stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(partial(answers, "docker", "info"), "the engine answers", ENGINE_START_S)
        yield
    finally:
        daemon.terminate()
        daemon.wait()


class Project:
    """deploy/docker-compose.yml under a name of its own, so that nobody else's is touched.

    Args:
        variables: what deploy/.env says otherwise.
    """

    def __init__(self, command: tuple[str, ...], name: str, **variables: str) -> None:
        self._command = command
        self.name = name
        self.environment = {"COMPOSE_PROJECT_NAME": name, **variables}

    def compose(self, *words: str, check: bool = True) -> str:
        """What it prints."""
        command = (*self._command, "-f", str(COMPOSE_FILE), *words)
        return run(*command, check=check, environment=self.environment)

    def containers(self, service: str) -> list[str]:
        """Ids of a service's, stopped ones too."""
        labels = (f"project={self.name}", f"service={service}")
        filters = [f"--filter=label=com.docker.compose.{label}" for label in labels]
        return run("docker", "ps", "--all", "--quiet", *filters).split()

    def inspect(self, service: str, what: str) -> list[str]:
        """Something of each of a service's containers, as a Go template says it."""
        found = self.containers(service)
        return run("docker", "inspect", f"--format={{{{{what}}}}}", *found).split() if found else []

    def log(self, service: str) -> str:
        """What all of its containers have printed."""
        return "".join(run("docker", "logs", c, check=False) for c in self.containers(service))

    def left(self) -> list[str]:
        """Containers, networks and volumes of this project."""
        label = f"--filter=label=com.docker.compose.project={self.name}"
        kinds = (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
        return [line for kind in kinds for line in run("docker", *kind, "-q", label).split()]
