"""How a process starts and ends: exit codes, one line for an error, never without its parent."""

import errno
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import zmq

from common import errors
from common.errors import ConfigError, ZapexError
from common.process import (
    BEGAN_VARIABLE,
    FOR_THE_USER,
    UNEXPECTED,
    configure_logging,
    process_start_s,
    run_main,
)
from tests.integration.runs import own_logging

ROOT = Path(__file__).parents[3]


def raising(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


def python(code: str, **options: Any) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", code]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["a detail", "7 GB", "for the log", "a warning"]),
        ("info", ["7 GB", "for the log", "a warning"]),
        ("warning", ["a warning"]),
    ],
)
def test_what_is_for_the_user_is_said_whatever_is_logged(
    tmp_path: Path, level: str, expected: list[str]
) -> None:
    said: list[str] = []
    with own_logging():
        configure_logging(level, tmp_path / "logs" / "log", said.append)
        log = logging.getLogger("a.module")
        log.debug("a detail")
        log.info("%d GB", 7, extra=FOR_THE_USER)
        log.info("for the log")
        log.warning("a warning")
    assert said == ["7 GB"]
    logged = (tmp_path / "logs" / "log").read_text().splitlines()
    assert [line.partition(": ")[2] for line in logged] == expected


def test_a_user_who_is_gone_is_told_nothing(tmp_path: Path) -> None:
    def say(line: str) -> None:
        raise BrokenPipeError

    with own_logging():
        configure_logging("info", tmp_path / "log", say)
        logging.getLogger().info("7 GB", extra=FOR_THE_USER)
    assert (tmp_path / "log").read_text().endswith("7 GB\n")


@pytest.mark.parametrize(("result", "exit_code"), [(None, 0), (0, 0), (1, 1), (130, 130)])
def test_what_a_program_returns_is_its_exit_code(
    capsys: pytest.CaptureFixture[str], result: int | None, exit_code: int
) -> None:
    assert run_main(lambda: result) == exit_code
    assert capsys.readouterr() == ("", "")


EXIT_CODES = {
    "ConfigError": 2,
    "ZapexError": 3,
    "WireError": 3,
    "MalformedMessage": 3,
    "SchemaMismatch": 3,
    "RoleFailed": 3,
    "EnvironmentFault": 4,
    "MemoryLimitReached": 9,
    "JoinRefused": 5,
    "HeadUnreachable": 5,
    "AddressInUse": 6,
    "RunDirectoryError": 7,
    "CheckpointError": 7,
    "NonFiniteLoss": 8,
}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "", "/x/__pycache__"),
            "No space left on device at /x/__pycache__: free space there",
        ),
        (
            zmq.ZMQError(errno.EMFILE),
            "Too many open files: raise the limit of open files (ulimit -n)",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
            "GPU memory ran out: free some, or take less: batch_size, prefetch_batches",
        ),
    ],
)
def test_what_runs_out_where_nobody_reckoned_with_it_is_one_line_too(
    capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    assert run_main(raising(error)) == 3
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_every_error_has_an_exit_code_of_its_own_or_its_kind() -> None:
    raised_on_purpose = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, ZapexError)
    }
    assert raised_on_purpose == set(EXIT_CODES)


@pytest.mark.parametrize(("name", "exit_code"), EXIT_CODES.items())
def test_an_expected_error_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], name: str, exit_code: int
) -> None:
    error = getattr(errors, name)("what is wrong:\n\n  what\tto do\r\n")
    assert run_main(raising(error)) == exit_code
    assert capsys.readouterr() == ("", "error: what is wrong: what to do\n")


def test_debug_adds_the_traceback_before_that_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(raising(ConfigError("no such key")), debug=True) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "error: no such key"


def test_an_unexpected_error_is_a_bug_and_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(raising(ValueError("oops"))) == UNEXPECTED == 70
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: oops"


def test_ctrl_c_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


def test_what_wants_to_exit_exits() -> None:
    with pytest.raises(SystemExit, match="2"):
        run_main(raising(SystemExit(2)))


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    program = """
import sys
from common.process import run_main
def main():
    sys.stdin.read()
    for _ in range(100_000):
        print("a line of output")
sys.exit(run_main(main))
"""
    process = python(program, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.close()
    with process.stderr as stderr:
        assert stderr.read() == ""
    assert process.wait() == 0


CLOSED = """
import subprocess, sys
from common.process import run_main
def main():
    print("for whoever listens", sys.stdin.read())
    print("and an error", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        child = subprocess.run([sys.executable, "-c", "print('below', input)"])
        file.write(f"{file.fileno() > 2} {child.returncode}")
    return 5
sys.exit(run_main(main))
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_standard_files_that_are_closed_are_no_error(tmp_path: Path, closed: str) -> None:
    within = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    words = [*within, sys.executable, "-c", CLOSED, str(tmp_path / "file")]
    done = subprocess.run(words, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 5
    assert (tmp_path / "file").read_text() == "True 0"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("to", ["/dev/full", ">(:)", "output"])
def test_a_run_outlasts_whoever_reads_it(tmp_path: Path, to: str) -> None:
    program = """
import sys
from common.process import outlast_readers, run_main
from deploy.live_view import LiveView
def main():
    outlast_readers()
    with LiveView("a run") as view:
        for _ in range(5_000):
            view.say("best –")
            print("for π", file=sys.stderr)
    print("solved ✓")
    return 5
sys.exit(run_main(main))
"""
    words = ["bash", "-c", f'exec "$0" -c "$1" > {to} 2>&1', sys.executable, program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    assert subprocess.run(words, cwd=tmp_path, env=environment, check=False).returncode == 5
    if to == "output":
        lines = (tmp_path / to).read_text().splitlines()
        assert lines == ["a run", *["best ?", "for ?"] * 5_000, "solved ?"]


def test_a_process_knows_when_it_began() -> None:
    before_s = time.monotonic()
    program = "import common.process; print(common.process.process_start_s())"
    with python(program) as process:
        assert process.stdout is not None
        began_s = float(process.stdout.read())
    # Clock ticks are a hundredth of a second.
    assert before_s - 0.02 <= began_s <= time.monotonic()


def test_others_agree_when_this_process_began() -> None:
    def age_s() -> float:
        return time.time() - psutil.Process().create_time()

    before_s = age_s()
    own_s = time.monotonic() - process_start_s()
    # psutil takes the boot time in whole seconds.
    assert before_s - 2.0 <= own_s <= age_s() + 2.0


def test_what_was_installed_before_is_not_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    before_s = time.monotonic()
    monkeypatch.setenv(BEGAN_VARIABLE, str(time.clock_gettime(time.CLOCK_BOOTTIME)))
    assert before_s - 0.02 <= process_start_s() <= time.monotonic()


def test_a_time_before_its_own_is_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    own_s = process_start_s()
    monkeypatch.setenv(BEGAN_VARIABLE, "1.5")
    assert process_start_s() == pytest.approx(own_s, abs=0.02)


def test_it_does_not_change() -> None:
    assert process_start_s() == pytest.approx(process_start_s(), abs=0.02)


ORPHAN = """
import sys, threading
from common import process
stop = threading.Event()
process.STOP_LIMIT_S = float(sys.argv[2])
process.stop_with_parent(int(sys.argv[1]), stop)
print("watching", flush=True)
stop.wait()
print("stopping", flush=True)
if sys.argv[3] == "hangs":
    threading.Event().wait()
"""


@pytest.mark.parametrize(
    ("manners", "limit_s", "exit_code"), [("obeys", 60.0, 0), ("hangs", 0.1, UNEXPECTED)]
)
def test_a_process_ends_with_its_parent(manners: str, limit_s: float, exit_code: int) -> None:
    """The end of a pipe stands for the parent: it becomes readable when that is gone."""
    sentinel, parent = os.pipe()
    words = [sys.executable, "-c", ORPHAN, str(sentinel), str(limit_s), manners]
    with subprocess.Popen(
        words,
        cwd=ROOT,
        pass_fds=[sentinel],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        os.close(sentinel)
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        os.close(parent)
        assert process.stdout.readline() == "stopping\n"
        assert process.wait() == exit_code
