"""Memory that is freed and asked for again: the pages must not be new ones."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from learner.host_memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for round in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 26, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = (1 << 26) // 4096


def page_faults(argument: str) -> int:
    """Of filling 64 MiB for the third time, in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, argument]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    assert page_faults("keep") < PAGES // 100


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_glibc_alone_gives_large_memory_back_each_time() -> None:
    """Or else the test above would prove nothing. Huge pages fault once for 512 small ones."""
    assert page_faults("leave") >= PAGES // 512
