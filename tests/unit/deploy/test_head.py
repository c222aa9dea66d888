"""The head in a container keeps its learner going."""

import signal
import sys
import threading
from pathlib import Path

import pytest

from common.restarts import MAX_FAILURES, Patience
from deploy.head import keep_learning

HURRY = Patience(first_backoff_s=0.01, last_backoff_s=0.02)


def learn(directory: Path, code: str) -> tuple[int, int]:
    """Keep a learner going that does that; the exit code, and how often it was started."""
    starts = directory / "starts"
    program = f"""
import os, pathlib, signal, sys
starts = pathlib.Path({str(starts)!r})
number = len(starts.read_text()) if starts.exists() else 0
starts.write_text("x" * (number + 1))
{code}
"""
    command = [sys.executable, "-c", program]
    exit_code = keep_learning(command, directory, threading.Event(), HURRY)
    return exit_code, len(starts.read_text())


def test_one_that_crashes_again_and_again_is_given_up(tmp_path: Path) -> None:
    code, starts = learn(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)")
    assert (code, starts) == (128 + signal.SIGSEGV, 1 + MAX_FAILURES)


def test_one_that_is_killed_is_started_again_more_often(tmp_path: Path) -> None:
    code, starts = learn(
        tmp_path, f"number > {MAX_FAILURES + 1} or os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert (code, starts) == (0, MAX_FAILURES + 3)


@pytest.mark.parametrize("code", [0, 1, 8])
def test_what_it_says_itself_is_final(tmp_path: Path, code: int) -> None:
    assert learn(tmp_path, f"sys.exit({code})") == (code, 1)


def test_it_is_ready_once_it_says_where_its_head_listens(tmp_path: Path) -> None:
    """A file that a predecessor left behind says nothing: it would be forgiven its kills."""
    (tmp_path / "head").write_text("tcp://of.the.one.before:5550")
    code, starts = learn(tmp_path, "number > 30 or os.kill(os.getpid(), signal.SIGKILL)")
    assert (code, starts) == (128 + signal.SIGKILL, 1 + 20)
