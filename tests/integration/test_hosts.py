"""`python -m deploy launch --hosts FILE`: actors on hosts that are reached by a real ssh."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.conftest import Start
from tests.integration.runs import (
    ENDLESS,
    ROOT,
    Command,
    head_of,
    status,
    until,
    updates_beyond,
    write_preset,
)
from tests.integration.ssh_server import needs_sshd, ssh_server

pytestmark = needs_sshd
NAMES = ("cpu-1", "cpu-2", "cpu-3")


@pytest.fixture
def ssh_config(tmp_path: Path) -> Iterator[Path]:
    with ssh_server(tmp_path) as server:
        config = tmp_path / "ssh_config"
        nobody = "Host cpu-away\n  HostName 127.0.0.1\n  Port 1\n"
        config.write_text(server.client_config(NAMES) + nobody)
        yield config


def write_hosts(directory: Path, *names: str) -> None:
    """One actor on each."""
    lines = [
        'head = { bind = "tcp://127.0.0.1:0", address = "127.0.0.1" }',
        "[defaults]",
        f'dir = "{directory}"\npython = "{sys.executable}"\nactors = 1',
        f'env = {{ PYTHONPATH = "{ROOT}" }}',
        f'ssh = ["-F", "{directory}/ssh_config"]',
        *(f'[[hosts]]\nname = "{name}"' for name in names),
    ]
    (directory / "hosts.toml").write_text("\n".join(lines) + "\n")


def actor_pids(now: dict[str, Any]) -> set[int]:
    return {m["pid"] for m in now["members"] if m["role"] == "actor"}


def ssh_to(launch: Command, name: str) -> psutil.Process:
    (found,) = [p for p in launch.family() if p.name() == "ssh" and name in p.cmdline()]
    return found


def gone(pids: set[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids)


def test_hosts_come_and_go_and_nothing_of_them_is_left(
    start: Start, tmp_path: Path, ssh_config: Path
) -> None:
    preset = write_preset(
        tmp_path / "tiny.toml",
        total_env_steps=ENDLESS,
        env="tests.integration.environments:Paced-v0",
        env_kwargs={"delay_s": 0.02},
    )
    write_hosts(tmp_path, "cpu-1", "cpu-away")
    launch = start(
        "deploy", "launch", "--hosts", "hosts.toml", "--preset", preset, "--run-dir", "run"
    )
    head = head_of(launch)
    away = launch.line("cpu-away actors: ")
    assert "port 1: Connection refused: trying again" in away
    status(head, updates_beyond(20))
    first = actor_pids(status(head))
    assert len(first) == 1

    # A host that is added to the file joins; one that is taken out of it leaves.
    write_hosts(tmp_path, "cpu-1", "cpu-2", "cpu-3")
    both = actor_pids(status(head, lambda now: len(actor_pids(now)) == 3))
    write_hosts(tmp_path, "cpu-1", "cpu-2")
    left = actor_pids(status(head, lambda now: len(actor_pids(now)) == 2))
    assert first < left < both
    until(lambda: gone(both - left), "the end of what ran on cpu-3")

    # When the connection to a host is gone, what runs there ends, and is started again.
    ssh_to(launch, "cpu-1").kill()
    until(lambda: gone(first), "the end of what ran on cpu-1")
    again = actor_pids(
        status(head, lambda now: len(actor_pids(now)) == 2 and not actor_pids(now) & first)
    )
    assert "joined the run run as actor" in (tmp_path / "run/logs/cpu-1-actors.log").read_text()

    # When the head's host is gone, so is everything.
    launch.process.kill()
    assert launch.nothing_left()
    until(lambda: gone(again), "the end of what ran on the hosts")


@pytest.mark.slow
def test_a_run_that_ends_takes_its_hosts_along(
    start: Start, tmp_path: Path, ssh_config: Path
) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=800)
    write_hosts(tmp_path, "cpu-1")
    launch = start(
        "deploy", "launch", "--hosts", "hosts.toml", "--preset", preset, "--run-dir", "run"
    )
    assert launch.wait() == 0, launch.output()
    assert launch.nothing_left()
    assert launch.line("budget spent")
    assert "not ended" not in launch.output()


def test_a_key_that_is_not_let_in_is_said_in_one_line(
    start: Start, tmp_path: Path, ssh_config: Path
) -> None:
    ssh_config.write_text(ssh_config.read_text().replace("user_key", "host_key"))
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS)
    write_hosts(tmp_path, "cpu-1")
    launch = start(
        "deploy", "launch", "--hosts", "hosts.toml", "--preset", preset, "--run-dir", "run"
    )
    assert "Permission denied (publickey): trying again" in launch.line("cpu-1 actors: ")
