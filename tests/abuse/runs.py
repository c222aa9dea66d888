"""Runs to attack: over TCP as always, in threads of this process or in processes."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import run_directory
from common.config import Config
from common.keys import add_client, make_directory
from common.security import NOTHING_TOLD, SecureContext, Security, open_security
from deploy.topology import RoleSpec, follower_roles, run_role
from tests.integration.runs import ENDLESS, TINY, Command, head_of, pid_of, until, write_preset

RUN: dict[str, Any] = {
    **TINY,
    "total_env_steps": ENDLESS,
    "inference": "host",
    "actors": 2,
    "replay_capacity": 1_000_000,
    "samples_per_insert": 2.0,
    "checkpoint_period": 10_000,
    "eval_period": 10_000,
}
"""Its replay is so large that nothing is evicted: whatever was acknowledged is there at the end."""
ANY_PORT = "tcp://127.0.0.1:0"
INSIDER = "insider"
"""A client on the allow-list."""


def with_keys(directory: Path) -> tuple[Security, Security]:
    """A run's own keys, made in `directory`, and those of INSIDER."""
    run, insider = directory / "keys", directory / f"{INSIDER}.key"
    make_directory(run)
    add_client(run, INSIDER, insider)
    return open_security(run), open_security(insider)


@contextlib.contextmanager
def in_threads(
    config: Config, run_dir: Path, security: Security = NOTHING_TOLD
) -> Iterator[tuple[str, int]]:
    """A run whose roles are threads with sockets of their own; its head's address, and the process
    that it is in. Raises what a role raised."""
    run_directory.create(run_dir, config)
    stop = threading.Event()
    failures: list[BaseException] = []
    heads: list[str] = []

    def start(spec: RoleSpec) -> threading.Thread:
        def body() -> None:
            try:
                with SecureContext(security) as context:
                    ready = heads.append if spec.role == "learner" else lambda _: None
                    run_role(spec, context, stop, ready)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=body, name=spec.name)
        thread.start()
        return thread

    threads = [start(RoleSpec("learner", "learner", config, run_dir, ANY_PORT))]
    try:
        until(lambda: heads or failures, "the head is there")
        if heads:
            threads += map(start, follower_roles(config, run_dir, heads[0], ANY_PORT))
            yield heads[0], os.getpid()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def in_processes(
    config: Config, run_dir: Path, security: Security = NOTHING_TOLD
) -> Iterator[tuple[str, int]]:
    """A launched run; its head's address and process. Raises AssertionError when a process had to
    be started again."""
    keys = security.keys
    secured = [] if keys is None else ["--keys", str(keys.directory)]
    with tempfile.TemporaryDirectory() as directory:
        preset = write_preset(Path(directory) / "siege.toml", **config.model_dump(mode="json"))
        words = ("deploy", "launch", "--preset", preset, "--run-dir", str(run_dir.resolve()))
        launch = Command(Path(directory), *words, *secured)
        try:
            yield head_of(launch), pid_of(run_dir, "learner")
            launch.process.terminate()
            launch.wait()
        finally:
            launch.kill_family()
    log = (run_dir / "logs" / "launcher.log").read_text()
    assert "restart" not in log, log
