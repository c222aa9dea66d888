"""`python -m deploy launch`: the whole topology as processes, which may be killed at any time."""

import importlib.util
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from common import transport
from tests.integration.conftest import Start
from tests.integration.runs import (
    ENDLESS,
    Command,
    checkpoints_of,
    head_of,
    log_of,
    pid_of,
    result_of,
    status,
    until,
    updates_beyond,
    write_preset,
)

ENOUGH = 100_000
"""A replay's capacity in transitions that a test does not fill."""


@pytest.fixture
def socket_directory() -> Iterator[str]:
    # A socket's path must be short, and the test's directory need not be.
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield directory


def launched(start: Start, directory: Path, *words: str, **changes: Any) -> Command:
    preset = write_preset(directory / "tiny.toml", **changes)
    run_dir = str(directory / "run")
    return start("deploy", "launch", "--preset", preset, "--run-dir", run_dir, *words)


def is_free(address: str) -> bool:
    """Whether a new head could listen there."""
    with zmq.Context() as context:
        socket, _ = transport.bind(context, zmq.ROUTER, address)
        socket.close()
    return True


@pytest.mark.parametrize(
    ("bind", "changes", "exit_code", "verdict"),
    [
        (
            "tcp://127.0.0.1:0",
            # CartPole never falls before its eighth step.
            {"target_return": 5.0, "confirm_episodes": 3, "total_env_steps": ENDLESS},
            0,
            "solved",
        ),
        # A run may live in the file system.
        ("ipc://DIRECTORY/head", {"target_return": 501.0}, 1, "target not reached"),
    ],
)
def test_a_run_ends_by_itself_and_leaves_nothing_behind(
    start: Start,
    tmp_path: Path,
    socket_directory: str,
    bind: str,
    changes: dict[str, Any],
    exit_code: int,
    verdict: str,
) -> None:
    bind = bind.replace("DIRECTORY", socket_directory)
    launch = launched(start, tmp_path, "--bind", bind, **changes)
    head = launch.line("head at ").split()[2]
    assert head.startswith(bind.removesuffix(":0"))
    assert launch.wait() == exit_code
    assert launch.nothing_left()
    assert is_free(head)
    result = result_of(tmp_path / "run")
    assert result["solved"] == (exit_code == 0)
    assert result["target"] == changes["target_return"]
    assert result["eval_episodes"] == changes.get("confirm_episodes", 2)
    assert launch.line(f"{verdict}: CartPole-v1")
    assert launch.line(f"everything lies in {tmp_path / 'run'}")
    assert "Traceback" not in launch.output()
    # The last line names the pictures, or the extra that they need.
    assert launch.output().splitlines()[-1] == (
        f"  pictures: {tmp_path / 'run/curve.png'}, {tmp_path / 'run/throughput.png'}"
        if importlib.util.find_spec("matplotlib")
        else "  no pictures: pip install 'zapex[watch]'"
    )


def test_a_run_needs_none_of_the_standard_files(start: Start, tmp_path: Path) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=400)
    words = ("deploy", "launch", "--preset", preset, "--run-dir", "run")
    launch = start(*words, within=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"])
    assert launch.wait() == 0
    assert launch.nothing_left()
    assert result_of(tmp_path / "run")["env_steps"] >= 400


def test_a_killed_actor_is_restarted_and_takes_its_place_again(
    start: Start, tmp_path: Path
) -> None:
    launch = launched(start, tmp_path, actors=2, total_env_steps=ENDLESS)
    head, run_dir = head_of(launch), tmp_path / "run"
    before = status(head, updates_beyond(20))
    dead = pid_of(run_dir, "actor-1")
    psutil.Process(dead).kill()
    launch.line("actor-1 was killed by signal 9: restarting")
    members = status(
        head, lambda now: sorted(_numbers(now, "actor")) == [0, 1] and dead not in _pids(now)
    )
    assert pid_of(run_dir, "actor-1") in _pids(members)
    # Its predecessor's place on the ladder was not left to a ghost: still 2 · 4 environments.
    joined = "joined the run run as actor 1"
    until(lambda: log_of(run_dir, "actor-1").count(joined) == 2, "actor 1 to join again")
    status(head, updates_beyond(before["learner"]["updates"] + 200))
    assert launch.process.poll() is None


def test_logs_that_were_deleted_end_no_run_and_hinder_none(start: Start, tmp_path: Path) -> None:
    launch = launched(start, tmp_path, total_env_steps=ENDLESS)
    run_dir = tmp_path / "run"
    before = status(head_of(launch), updates_beyond(20))
    dead = pid_of(run_dir, "actor-0")
    shutil.rmtree(run_dir / "logs")
    psutil.Process(dead).kill()
    launch.line("actor-0 was killed by signal 9: restarting")
    status(head_of(launch), lambda now: dead not in _pids(now) and _numbers(now, "actor") == [0])
    assert "joined the run run as actor 0" in log_of(run_dir, "actor-0")
    launch.signal_group(signal.SIGINT)
    assert launch.wait() == 130

    shutil.rmtree(run_dir / "logs")
    budget = str(before["learner"]["env_steps"])
    resumed = start("deploy", "launch", "--resume", str(run_dir), "--total-env-steps", budget)
    assert resumed.wait() == 0
    assert "Traceback" not in launch.output() + resumed.output()
    assert (run_dir / "logs" / "learner.log").exists()


def test_a_killed_replay_server_comes_back_with_all_it_acknowledged(
    start: Start, tmp_path: Path
) -> None:
    launch = launched(start, tmp_path, total_env_steps=ENDLESS, replay_capacity=ENOUGH)
    head, run_dir = head_of(launch), tmp_path / "run"
    before = status(head, updates_beyond(50))["learner"]
    psutil.Process(pid_of(run_dir, "replay_server")).kill()
    launch.line("replay_server was killed by signal 9: restarting")
    # Learning goes on, and nothing is lost or counted twice: what was inserted are the run's steps.
    after = status(
        head,
        lambda now: (
            updates_beyond(before["updates"] + 500)(now)
            and now["learner"]["env_steps"] == now["learner"]["inserted"]
        ),
    )["learner"]
    restored = [
        int(line.rpartition("restored transitions: ")[2])
        for line in log_of(run_dir, "replay_server").splitlines()
        if "restored" in line
    ]
    assert len(restored) == 2
    assert restored[0] == 0
    assert restored[1] >= before["table_size"] - 4 * 8  # An insert may have been cut short.
    assert after["inserted"] > before["inserted"]
    served_at = [
        line.split()[-1] for line in log_of(run_dir, "learner").splitlines() if "serves at" in line
    ]
    assert len(served_at) == 2
    assert len(set(served_at)) == 1


def test_a_killed_learner_goes_on_from_its_newest_checkpoint(start: Start, tmp_path: Path) -> None:
    since_s = time.monotonic()
    launch = launched(start, tmp_path, actors=2, total_env_steps=ENDLESS)
    head, run_dir = head_of(launch), tmp_path / "run"
    before = status(head, updates_beyond(100))["learner"]
    psutil.Process(pid_of(run_dir, "learner")).kill()
    launch.line("learner was killed by signal 9: restarting")
    newest = checkpoints_of(run_dir)[-1]
    assert newest >= 100
    # It counts on from the checkpoint (every step that reached the replay once), everybody finds it
    # again, and its weights find everybody: the actors act on newer ones, the evaluator plays them.
    after = status(
        head,
        lambda now: (
            now["learner"]["evaluations"] > before["evaluations"] + 10
            and now["learner"]["env_steps"] == now["learner"]["inserted"]
            and sorted(_numbers(now, "actor")) == [0, 1]
            and all(v > newest + 100 for v in _gauges(now, "actor", "actor_weights_version"))
        ),
    )
    assert f"resumed from {run_dir}/checkpoints/{newest:08d}" in log_of(run_dir, "learner")
    assert after["learner"]["env_steps"] > before["env_steps"]
    assert after["wall_s"] < time.monotonic() - since_s


def test_when_the_launcher_is_killed_everything_ends(start: Start, tmp_path: Path) -> None:
    # Even the processes that its actor's and its evaluator's environments live in.
    launch = launched(start, tmp_path, vectorization="async", total_env_steps=ENDLESS)
    head, run_dir = head_of(launch), tmp_path / "run"
    status(head, updates_beyond(20))
    assert len(launch.family()) > 4 + 4
    launch.process.kill()
    assert launch.nothing_left()
    assert is_free(head)
    assert checkpoints_of(run_dir)[-1] == result_of(run_dir)["learner_updates"]


@pytest.mark.parametrize(
    "how",
    [
        "ctrl-c",
        *(
            pytest.param(how, marks=pytest.mark.slow)
            for how in ("sigterm", "sigterm to all", "sigterm to the learner")
        ),
    ],
)
def test_a_stopped_run_can_be_continued(start: Start, tmp_path: Path, how: str) -> None:
    launch = launched(start, tmp_path, total_env_steps=ENDLESS, replay_capacity=ENOUGH)
    head, run_dir = head_of(launch), tmp_path / "run"
    status(head, updates_beyond(100))
    if how == "ctrl-c":
        launch.signal_group(signal.SIGINT)
    elif how == "sigterm":
        launch.process.terminate()
    elif how == "sigterm to the learner":
        psutil.Process(pid_of(run_dir, "learner")).terminate()
    else:
        launch.signal_group(signal.SIGTERM)
    assert launch.wait() == 130
    assert launch.nothing_left()
    assert is_free(head)
    launch.line(f"stopped. Continue with: python -m deploy launch --resume {run_dir}")
    for noise in ("Traceback", "restarting", "killed"):
        assert noise not in launch.output()
    stopped = result_of(run_dir)
    assert stopped["reason"] == "stopped"
    assert checkpoints_of(run_dir)[-1] == stopped["learner_updates"]
    if how != "ctrl-c":
        return

    budget = stopped["env_steps"] + 400
    resumed = start("deploy", "launch", "--resume", str(run_dir), "--total-env-steps", str(budget))
    assert resumed.wait() == 0
    assert resumed.nothing_left()
    result = result_of(run_dir)
    assert result["env_steps"] >= budget
    assert result["learner_updates"] > stopped["learner_updates"]
    assert result["wall_s"] > stopped["wall_s"]
    seen = len(stopped["evaluations"])
    assert result["evaluations"][:seen] == stopped["evaluations"]
    assert len(result["evaluations"]) > seen
    # The replay's content was there again, and with it the proportion of acting and learning.
    *_, restored = (x for x in log_of(run_dir, "replay_server").splitlines() if "restored" in x)
    assert int(restored.rpartition("restored transitions: ")[2]) >= stopped["env_steps"]
    assert result["samples_per_insert"] == pytest.approx(8.0, rel=0.5)


def test_a_run_goes_on_when_nobody_reads_what_it_says(start: Start, tmp_path: Path) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS, replay_capacity=ENOUGH)
    run_dir = tmp_path / "run"
    into_head = ("bash", "-c", 'exec "$0" "$@" 2>&1 > >(head -2)')
    options = ("--preset", preset, "--run-dir", str(run_dir))
    launch = start("deploy", "launch", *options, within=into_head)
    head = head_of(launch)
    # By then it has said more than its reader waited for.
    status(head, updates_beyond(100))
    launch.signal_group(signal.SIGINT)
    assert launch.wait() == 130
    assert launch.nothing_left()
    assert result_of(run_dir)["reason"] == "stopped"
    assert len(launch.output().splitlines()) == 2


def test_a_run_in_threads_stops_as_well(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS)
    options = ("--preset", preset, "--run-dir", str(run_dir))
    launch = start("deploy", "launch", "--in-process", *options)
    until(lambda: checkpoints_of(run_dir), "a checkpoint")
    launch.signal_group(signal.SIGINT)
    assert launch.wait() == 130
    launch.line(f"stopped. Continue with: python -m deploy launch --resume {run_dir}")
    assert checkpoints_of(run_dir)[-1] == result_of(run_dir)["learner_updates"]


def test_ctrl_c_while_everything_starts_ends_it_in_silence(start: Start, tmp_path: Path) -> None:
    launch = launched(start, tmp_path, total_env_steps=ENDLESS)
    launch.line("CartPole-v1, seed 0")  # The launcher's first line; its roles import torch now.
    launch.signal_group(signal.SIGINT)
    assert launch.wait() == 130
    assert launch.nothing_left()
    launch.line("stopped.")
    assert "Traceback" not in launch.output()


def _numbers(now: dict[str, Any], role: str) -> list[int]:
    return [m["number"] for m in now["members"] if m["role"] == role]


def _pids(now: dict[str, Any]) -> list[int]:
    return [m["pid"] for m in now["members"]]


def _gauges(now: dict[str, Any], role: str, name: str) -> list[float]:
    return [m["values"].get(name, -1.0) for m in now["members"] if m["role"] == role]
