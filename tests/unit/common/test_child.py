"""How a child's work ends, by its exit code and in the words that its parent gets."""

import errno
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe

import pytest
import torch

from common.child import exit_code_of
from common.children import FAILED
from common.errors import ConfigError, ZapexError
from common.process import GPU_MEMORY, UNEXPECTED

LOG = logging.getLogger("child")


def raising(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("no such thing"), ConfigError.exit_code, "no such thing"),
        (
            OSError(errno.ENOSPC, "no space", "/cache"),
            ZapexError.exit_code,
            "No space left on device at /cache: free space there (see its.log)",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
            ZapexError.exit_code,
            f"{GPU_MEMORY} (see its.log)",
        ),
        (ValueError("two\n  lines"), UNEXPECTED, "unexpected ValueError: two lines (see its.log)"),
    ],
    ids=["expected", "ran out", "GPU memory", "unexpected"],
)
def test_the_parent_is_told_in_one_line(error: Exception, code: int, told: str) -> None:
    parent, child = Pipe(duplex=False)
    found = exit_code_of(raising(error), child, LOG, details=" (see its.log)")
    assert parent.recv() == (FAILED, told)
    assert found == code
    assert not parent.poll()


def test_who_ends_well_says_nothing() -> None:
    parent, child = Pipe(duplex=False)
    assert exit_code_of(lambda: None, child, LOG) == 0
    assert not parent.poll()


def test_what_the_parent_says_on_the_same_terminal_is_not_logged_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, child = Pipe(duplex=False)
    with caplog.at_level(logging.INFO):
        exit_code_of(raising(ConfigError("no")), child, LOG, level=logging.DEBUG)
        assert caplog.text == ""
        exit_code_of(raising(ConfigError("no")), child, LOG)
    assert "no" in caplog.text


HEEDS = """
import sys
from multiprocessing import Pipe
from common.child import heed_parent

stop, terminated = heed_parent(Pipe(duplex=False)[1])
print("ready", flush=True)
stop.wait()
sys.exit(7 if terminated.is_set() else 8)
"""


def test_ctrl_c_is_the_parents_and_sigterm_sets_both_events() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HEEDS], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 7
