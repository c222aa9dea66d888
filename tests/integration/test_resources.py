"""What a run needs is there no more, for a while or for good: one clear line, and the last good
state intact."""

import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from common import transport
from common.config import Config
from common.errors import CheckpointError, RunDirectoryError
from common.messages import StatusRequest
from deploy.history import read_history
from deploy.launch import launch
from learner import evaluations, loop
from learner.checkpoint import BEST, checkpoints, load_run_state, load_weights_file
from learner.saving import MAX_FAILURES
from tests.integration.conftest import InProcess, Start
from tests.integration.runs import (
    ENDLESS,
    TINY,
    checkpoints_of,
    head_of,
    result_of,
    status,
    updates_beyond,
    write_preset,
)
from tests.integration.test_bad_input import error_of
from tests.scarcity import file_size_limit, no_more_files

BAD_CONFIG, DIRECTORY = 2, 7
"""Exit codes of `common.errors`."""
OFTEN: dict[str, Any] = {**TINY, "checkpoint_period": 10, "keep_checkpoints": 100}
FULL = 512
"""Bytes that a file may have on a disk that is full: fewer than any checkpoint's."""

Write = Callable[..., Path]


def failing(write: Write, fails: Callable[[int], bool]) -> Write:
    """The same, on a disk that is full whenever `fails`, which is told how often it was called."""
    calls = itertools.count()

    def write_or_fail(*args: Any) -> Path:
        with file_size_limit(FULL) if fails(next(calls)) else contextlib.nullcontext():
            return write(*args)

    return write_or_fail


# ------------------------------------------------------------------------------------ a full disk


def test_a_disk_that_is_full_for_a_while_costs_the_checkpoints_of_that_while(
    deterministic: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = failing(loop.save_checkpoint, lambda call: call in (3, 4))
    monkeypatch.setattr(loop, "save_checkpoint", full)
    run_dir = deterministic(Config(**{**OFTEN, "total_env_steps": 400}))
    last = result_of(run_dir)["learner_updates"]
    # The first of all is the 0th call, that after 30 updates the 3rd.
    assert checkpoints_of(run_dir) == sorted({*range(0, last, 10), last} - {30, 40})
    assert not list(run_dir.rglob("*.partial"))
    lines = (run_dir / "logs" / "launcher.log").read_text().splitlines()
    said = [line.partition(" learner.saving: ")[2] for line in lines if "learner.saving" in line]
    for update, line in zip((30, 40), said, strict=False):
        assert line.startswith(f"cannot write {run_dir}/checkpoints/{update:08d}.safetensors (")
        assert "File too large" in line
        assert line.endswith("free space or make it writable; the checkpoints before it are intact")
    assert said[2:] == ["checkpoints can be written again"]


def test_a_disk_that_stays_full_ends_the_run_and_leaves_its_checkpoints(
    deterministic: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = failing(loop.save_checkpoint, lambda call: call > 2)
    monkeypatch.setattr(loop, "save_checkpoint", full)
    run_dir = tmp_path / "run"
    with pytest.raises(CheckpointError, match=r"cannot write .*\(10 times in a row\)"):
        deterministic(Config(**{**OFTEN, "total_env_steps": ENDLESS}), run_dir=run_dir)
    assert checkpoints_of(run_dir) == [0, 10, 20]
    for path in checkpoints(run_dir / "checkpoints"):
        assert load_run_state(path)[0].updates == int(path.stem)
    # After 30, 40, … 120 updates: the 10th in a row was the last.
    told = json.loads((run_dir / "status.json").read_text())["learner"]
    assert told["updates"] == 20 + 10 * MAX_FAILURES
    assert told["failed_checkpoints"] == MAX_FAILURES
    assert "cannot write" in told["trouble"]


def test_best_weights_that_could_not_be_written_are_written_with_the_next_checkpoint(
    deterministic: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = failing(evaluations.save_best, lambda call: call == 0)
    monkeypatch.setattr(evaluations, "save_best", full)
    # One evaluation, after 20 updates, and only a checkpoint after that.
    changes = {"eval_period": 20, "total_env_steps": 200}
    run_dir = deterministic(Config(**{**OFTEN, **changes, "confirm_episodes": 0}))
    first = result_of(run_dir)["evaluations"][0]
    assert first["updates"] == 20
    _, facts = load_weights_file(run_dir / "checkpoints" / f"{BEST}.safetensors")
    assert facts["return_mean"] == result_of(run_dir)["best_return_mean"]
    assert "best.safetensors" in (run_dir / "logs" / "launcher.log").read_text()


def test_a_new_run_is_refused_where_its_first_checkpoint_has_no_room(
    deterministic: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loop, "save_checkpoint", failing(loop.save_checkpoint, lambda _: True))
    with pytest.raises(CheckpointError, match="cannot write"):
        deterministic(Config(**OFTEN), run_dir=tmp_path / "run")
    assert checkpoints_of(tmp_path / "run") == []


def test_a_run_directory_that_is_removed_ends_the_run_and_stays_away(
    deterministic: InProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_dir, save, calls = tmp_path / "run", loop.save_checkpoint, itertools.count()

    def save_or_remove(*args: Any) -> Path:
        if next(calls) == 2:
            shutil.rmtree(run_dir)
        return save(*args)

    monkeypatch.setattr(loop, "save_checkpoint", save_or_remove)
    with pytest.raises(RunDirectoryError, match=r"run is gone: the run has no place left"):
        deterministic(Config(**{**OFTEN, "total_env_steps": ENDLESS}), run_dir=run_dir)
    assert not run_dir.exists()


@pytest.fixture
def read_only_run(full_soon: Path, finished_run: Path) -> Iterator[Path]:
    """A run that has ended, on a disk that was mounted again so that nobody can write to it."""
    run_dir = full_soon / "run"
    shutil.copytree(finished_run, run_dir, ignore=shutil.ignore_patterns("replay"))

    def mount(mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(full_soon)], check=True)

    mount("ro")
    yield run_dir
    mount("rw")


def test_a_run_is_not_resumed_where_it_cannot_write(read_only_run: Path) -> None:
    before = {path: path.read_bytes() for path in read_only_run.rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match=r"cannot write .*run.* \(Read-only file system\)"):
        launch(["--in-process", "--resume", str(read_only_run)])
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_a_run_of_processes_goes_on_when_its_full_disk_has_room_again(
    start: Start,
    tmp_path: Path,
    full_soon: Path,
) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS, checkpoint_period=300)
    run_dir, ballast = full_soon / "run", full_soon / "ballast"
    command = start("deploy", "launch", "--preset", preset, "--run-dir", str(run_dir))
    head = head_of(command)
    status(head, updates_beyond(300))
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"\0" * 512):
            pass
    told = status(head, lambda now: now["learner"]["failed_checkpoints"] > 0)
    assert "No space left" in told["learner"]["trouble"]
    assert "NOT SAVED" in command.line("NOT SAVED")
    before = checkpoints_of(run_dir)
    ballast.unlink()
    status(head, lambda now: not now["learner"]["trouble"])
    assert checkpoints_of(run_dir)[-1] > before[-1]
    command.process.send_signal(signal.SIGINT)
    assert command.wait() == 130
    assert "\nerror: " not in command.output()
    # Metrics came again, too, and of what was cut off no line is left that claims to be whole.
    history = read_history(run_dir)
    assert history.lines[-1]["updates"] > checkpoints_of(run_dir)[-2]


@pytest.mark.slow
def test_a_full_tmp_keeps_nobody_from_running(
    start: Start,
    tmp_path: Path,
    full_soon: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.suppress(OSError), (full_soon / "ballast").open("wb", buffering=0) as file:
        while file.write(b"\0" * 512):
            pass
    monkeypatch.setenv("TMPDIR", str(full_soon))
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=400)
    command = start("deploy", "launch", "--preset", preset, "--run-dir", "run")
    assert command.wait() == 0
    assert result_of(tmp_path / "run")["env_steps"] >= 400


# --------------------------------------------------------------------- open files and connections


def test_a_head_that_may_not_have_a_connection_for_each_actor_says_how_many_it_needs(
    start: Start,
) -> None:
    command = start("tests.limited", "nofile=80", "learner", "--run-dir", "run", "--actors", "40")
    assert command.wait() == BAD_CONFIG
    # 64 of its own, and two for each of 40 actors and 3 others.
    assert error_of(command) == (
        "error: the head of a run with 40 actors needs 150 open files and connections, and may "
        "have 80: raise the limit (ulimit -n 150; docker and compose: ulimits nofile)"
    )


def test_a_server_without_free_files_keeps_its_peers_and_takes_new_ones_later() -> None:
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        server, address = transport.bind(context, zmq.ROUTER, "tcp://127.0.0.1:0")
        stack.enter_context(contextlib.closing(server))
        old = stack.enter_context(
            contextlib.closing(transport.connect(context, zmq.DEALER, address))
        )
        late = stack.enter_context(context.socket(zmq.DEALER))

        def is_heard(peer: zmq.Socket[bytes]) -> bool:
            assert transport.send(peer, StatusRequest())
            return transport.wait(server, 30_000) and transport.receive_frames(server) is not None

        assert is_heard(old)
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        crowd = [stack.enter_context(socket.socket()) for _ in range(20)]
        with no_more_files():
            for one in crowd:
                # The kernel completes these; the server cannot take them.
                one.connect((host, int(port)))
            with pytest.raises(OSError, match="Too many open files") as refused:
                os.dup(0)
            assert refused.value.errno == errno.EMFILE
            late.connect(address)
            for _ in range(3):
                assert is_heard(old)
        for one in crowd:
            one.close()
        assert is_heard(late)
        assert is_heard(old)


# -------------------------------------------------------------------------- a clock that is put on


def test_a_clock_that_jumps_by_hours_changes_no_duration(
    in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = (0.0, 5.0, -7.0, 30.0, -1_000.0, 2.0)
    asked, right = itertools.count(), time.time
    monkeypatch.setattr(time, "time", lambda: right() + 3_600.0 * hours[next(asked) % len(hours)])
    since_s = time.monotonic()
    run_dir = in_process(Config(**{**TINY, "total_env_steps": 600}))
    most_s = time.monotonic() - since_s
    result = result_of(run_dir)
    assert 0.0 < result["wall_s"] <= most_s
    assert result["env_steps_per_s"] >= 600 / most_s
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    walls = [line["wall_s"] for line in lines]
    assert walls[0] >= 0.0
    assert walls == sorted(walls)
    assert walls[-1] <= most_s
    evaluated = [evaluation["wall_s"] for evaluation in result["evaluations"]]
    assert evaluated == sorted(evaluated)
    assert evaluated[0] > 0.0
    # The clock was asked what time it is, for somebody to read.
    assert next(asked) >= len(lines)
    state, _ = load_run_state(checkpoints(run_dir / "checkpoints")[-1])
    assert 0.0 < state.wall_s <= most_s
