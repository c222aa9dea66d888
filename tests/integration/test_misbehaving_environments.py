"""Whole runs whose environments hang, crash, leak and kill their processes.

In each life of its process an environment does another thing (`tests.faulty.Scripted`), so that one
run shows them all.
"""

import contextlib
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.conftest import Start
from tests.integration.runs import (
    ENDLESS,
    Command,
    checkpoints_of,
    head_of,
    log_of,
    status,
    until,
    write_preset,
)
from tests.integration.test_bad_input import error_of

pytestmark = pytest.mark.timeout(600)  # A dozen waits, each with patience of its own.

SCRIPTED = "tests.faulty:Scripted-v0"
ENVIRONMENT = 4
"""Exit code of `common.errors`."""


def launched(
    start: Start, directory: Path, scripts: dict[str, list[str]], **changes: Any
) -> Command:
    """A run whose roles' environments follow their scripts."""
    for role, lines in scripts.items():
        (directory / f"{role}.script").write_text("\n".join(lines))
    preset = write_preset(
        directory / "tiny.toml",
        env=SCRIPTED,
        env_kwargs={"directory": str(directory), "after": 20},
        env_step_timeout=2.0,
        total_env_steps=ENDLESS,
        **changes,
    )
    return start("deploy", "launch", "--preset", preset, "--run-dir", "run")


def until_said(launch: Command, role: str, restarts: int) -> list[str]:
    """What the launcher says of a role's ends, in order, once there are so many."""

    def said() -> list[str]:
        lines = launch.output().splitlines()
        return [x for x in lines if x.startswith(f"{role} ") and "restarting in" in x]

    for number in range(1, restarts + 1):
        # Each with patience of its own: a busy machine takes its time to start a process.
        until(lambda number=number: len(said()) >= number, f"restart {number} of {role}")  # type: ignore[misc]
    return said()


def test_whatever_an_environment_does_is_said_and_the_run_goes_on_until_it_is_hopeless(
    start: Start, tmp_path: Path
) -> None:
    scripts = {
        "actor-0": [
            "step sleeps", "step crashes", "step is killed", "step ends its process", "leaks",
            "step exits", "step raises", "step raises",
        ],
        "evaluator": ["step sleeps", "observation is NaN", "step is killed"],
        "MainProcess": ["step waits"],
    }  # fmt: skip
    launch = launched(start, tmp_path, scripts, actors=2, actor_memory_limit=1_000.0)
    by_hand = start("actor", "--connect", head_of(launch))
    said, evaluator = until_said(launch, "actor-0", 7), until_said(launch, "evaluator", 3)
    assert launch.wait() == ENVIRONMENT
    assert launch.nothing_left()

    line = error_of(launch)
    assert line.startswith(f"error: actor-0: {SCRIPTED} raised in step: RuntimeError: the simul")
    assert line.endswith(", step 21, 21 of its episode) (5 restarts did not help)")
    place = "(environment 0, "
    expected = [
        (f"{SCRIPTED} hangs in step: no return within env_step_timeout = 2 s {place}", "1 of 5)"),
        ("was killed by signal 11", f"it was in step of {SCRIPTED} {place}"),
        ("was killed by signal 9", f"it was in step of {SCRIPTED} {place}"),
        ("ended with exit code 0", f"it was in step of {SCRIPTED} {place}"),
        (f"{SCRIPTED} has grown to ", "actor_memory_limit = 1000 MiB: restarting in"),
        (f"{SCRIPTED} raised in step: SystemExit: 0 {place}", "(4 of 5)"),
        (f"{SCRIPTED} raised in step: RuntimeError: the simulator fell over {place}", "(5 of 5)"),
    ]
    assert len(said) == len(expected)
    for text, (begins, holds) in zip(said, expected, strict=True):
        assert text.startswith(f"actor-0 {begins}")
        assert holds in text
    # Only what it did itself counts.
    assert ["of 5)" in text for text in said] == [True, True, False, True, False, True, True]

    # Where it hung and where it crashed is in its log; the head was told of what could be told.
    log = log_of(tmp_path / "run", "actor-0")
    assert "in _do" in log
    assert "Segmentation fault" in log
    heard = log_of(tmp_path / "run", "learner")
    for reason in ("hangs in step", "has grown to", "raised in step: SystemExit"):
        assert f" left: {SCRIPTED} {reason}" in heard

    hangs, returns, dies = evaluator
    assert hangs.startswith(f"evaluator {SCRIPTED} hangs in step: no return within")
    assert returns.startswith(
        f"evaluator {SCRIPTED} returned an observation that is not finite {place}"
    )
    assert dies.startswith("evaluator was killed by signal 9: restarting in")

    # Nobody starts an actor again that was started by hand: it ends with the line.
    assert by_hand.wait() == ENVIRONMENT
    assert f"error: {SCRIPTED} hangs in step: no return within" in by_hand.output()
    # The other actor went on all the time, and what was learnt is there.
    assert log_of(tmp_path / "run", "actor-1").count(" pid ") == 1
    assert checkpoints_of(tmp_path / "run")


@pytest.mark.slow
def test_environments_in_processes_of_their_own_leave_none_behind(
    start: Start, tmp_path: Path
) -> None:
    scripts = {
        "actor-0": ["step sleeps", "step is killed", "step raises"],
        "evaluator": ["step sleeps"],
    }
    launch = launched(start, tmp_path, scripts, vectorization="async", envs_per_actor=2)
    head = head_of(launch)
    what = [
        "hangs in step: no return within env_step_timeout = 2 s",
        "had its process killed by signal 9 in step",
        "raised in step: RuntimeError: the simulator fell over",
    ]
    said = until_said(launch, "actor-0", len(what))
    for text, expected in zip(said, what, strict=True):
        assert text.startswith(f"actor-0 {SCRIPTED} {expected} (environment 1, 1 on the ladder, ")
    (text,) = until_said(launch, "evaluator", 1)
    assert text.startswith(f"evaluator {SCRIPTED} hangs in step: no return within")
    # The lives after these go well.
    for role, number in (("actor-0", 4), ("evaluator", 2)):
        until(lambda r=role, n=number: len(lives(tmp_path, r)) == n, f"{role}'s last life")  # type: ignore[misc]
    status(
        head,
        lambda now: any(m["values"].get("actor_env_steps_total", 0) > 100 for m in now["members"]),
    )
    until(lambda: not orphans(launch, tmp_path), "the end of all environments of earlier lives")
    launch.process.terminate()
    assert launch.wait() == 130
    assert launch.nothing_left()


def lives(directory: Path, role: str) -> list[int]:
    """Processes that a role with a script had, the present one last."""
    file = directory / f"{role}.lives"
    return list(map(int, file.read_text().split())) if file.exists() else []


def orphans(launch: Command, directory: Path) -> list[psutil.Process]:
    """Processes of environments whose roles are not there any more."""
    present = [lives(directory, role)[-1] for role in ("actor-0", "evaluator")]
    workers = set(map(int, (directory / "workers").read_text().split()))
    found = []
    for process in launch.family():
        with contextlib.suppress(psutil.Error):
            # Between a role and them there is the server that they are forked from.
            above = {parent.pid for parent in process.parents()}
            if process.pid in workers and not above & set(present):
                found.append(process)
    return found
