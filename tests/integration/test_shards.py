"""A run with two replay servers, of which one dies."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import Start
from tests.integration.runs import (
    ENDLESS,
    Command,
    Status,
    free_ports,
    head_of,
    log_of,
    pid_of,
    result_of,
    status,
    updates_beyond,
    write_preset,
)


def _inserted(now: Status) -> dict[int, float]:
    """Transitions that each replay server counts, by number."""
    return {
        m["number"]: m["values"].get("replay_inserted_transitions_total", 0.0)
        for m in now["members"]
        if m["role"] == "replay_server"
    }


def test_a_run_goes_on_when_one_of_its_replay_servers_is_killed(
    start: Start, tmp_path: Path
) -> None:
    preset = write_preset(
        tmp_path / "two.toml",
        replay_servers=2,
        actors=2,
        total_env_steps=ENDLESS,
        replay_storage="file",
        replay_capacity=50_000,
    )
    run_dir = tmp_path / "run"
    launch = start("deploy", "launch", "--preset", preset, "--run-dir", str(run_dir))
    head = head_of(launch)
    both = status(head, lambda now: len(_inserted(now)) == 2 and min(_inserted(now).values()) > 500)
    before = _inserted(both)
    os.kill(pid_of(run_dir, "replay_server-1"), signal.SIGKILL)
    launch.line("replay_server-1 was killed by signal 9: restarting")
    status(head, updates_beyond(both["learner"]["updates"] + 100))
    # It comes back with what it had, and gets more.
    status(head, lambda now: _inserted(now).get(1, 0.0) > before[1] + 200)
    assert (run_dir / "replay" / "storage-0").exists()
    log = log_of(run_dir, "replay_server-1").splitlines()
    *_, last = (line for line in log if "restored transitions: " in line)
    assert int(last.rpartition(" ")[2]) > 0
    launch.process.send_signal(signal.SIGINT)
    assert launch.wait() == 130
    assert launch.nothing_left()


def on_host(name: str) -> tuple[str, ...]:
    """What makes a command one of a host of that name, as a container is."""
    return ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name)


@pytest.mark.slow
def test_as_in_containers_two_with_the_same_words_keep_their_numbers_and_files(
    start: Start, tmp_path: Path
) -> None:
    if subprocess.run([*on_host("try"), "true"], capture_output=True).returncode:
        pytest.skip("a host's name of its own takes the right to give it one")
    preset = write_preset(
        tmp_path / "two.toml", replay_servers=2, actors=2, total_env_steps=ENDLESS
    )
    head = f"tcp://127.0.0.1:{free_ports(2)}"
    start("learner", "--config", preset, "--run-dir", "run", "--bind", head)
    words = ("replay_server", "--connect", head, "--bind", "tcp://127.0.0.1:0", "--take-over",
             "--storage", "run/replay/storage")  # fmt: skip
    servers = {name: start(*words, within=on_host(name)) for name in ("one", "two")}
    start("actor", "--connect", head, "--processes", "2")
    numbers = {name: number_of(server) for name, server in servers.items()}
    assert set(numbers.values()) == {0, 1}
    both = status(head, lambda now: len(_inserted(now)) == 2 and min(_inserted(now).values()) > 0)
    files = {file.name for file in (tmp_path / "run" / "replay").iterdir()}
    assert files == {"storage-0", "storage-1"}

    # Both at once: who comes back first must not take the other's number and file.
    for server in servers.values():
        server.process.kill()
    again = {name: start(*words, within=on_host(name)) for name in ("two", "one")}
    assert {name: number_of(server) for name, server in again.items()} == numbers
    for server in again.values():
        assert int(server.line("restored transitions: ").split()[-1]) > 0
    status(head, updates_beyond(both["learner"]["updates"] + 100))


def number_of(server: Command) -> int:
    """That the head has given a replay server."""
    return int(server.line("joined the run run as replay_server ").split()[-1])


@pytest.mark.slow
def test_a_run_in_threads_may_have_several_as_well(start: Start, tmp_path: Path) -> None:
    preset = write_preset(tmp_path / "two.toml", replay_servers=2, actors=2)
    run_dir = tmp_path / "run"
    launch = start(
        "deploy", "launch", "--in-process", "--preset", preset, "--run-dir", str(run_dir)
    )
    assert launch.wait() == 0
    assert result_of(run_dir)["env_steps"] >= 2_000
