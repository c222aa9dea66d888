"""A run with two replay servers, of which one dies."""

import os
import signal
from pathlib import Path

from tests.integration.conftest import Start
from tests.integration.runs import (
    ENDLESS,
    Status,
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
    assert "restored transitions: 0" not in log_of(run_dir, "replay_server-1").splitlines()[-1]
    launch.process.send_signal(signal.SIGINT)
    assert launch.wait() == 130
    assert launch.nothing_left()


def test_a_run_in_threads_may_have_several_as_well(start: Start, tmp_path: Path) -> None:
    preset = write_preset(tmp_path / "two.toml", replay_servers=2, actors=2)
    run_dir = tmp_path / "run"
    launch = start(
        "deploy", "launch", "--in-process", "--preset", preset, "--run-dir", str(run_dir)
    )
    assert launch.wait() == 0
    assert result_of(run_dir)["env_steps"] >= 2_000
