"""How many actor processes a host gets."""

import logging
import os
from pathlib import Path

import pytest

from actor.processes import process_count, usable_cores
from common.errors import ConfigError

HERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", HERE),
        ("100000 100000", 1),
        ("50000 100000", 1),  # Half a core is still somebody to act.
        ("6400000 100000", HERE),  # A container may be granted more than there is.
        ("", HERE),
    ],
)
def test_a_container_uses_what_it_is_granted(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path / "cpu.max") == cores


def test_outside_of_containers_there_is_no_quota(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "cpu.max") == HERE


def test_auto_is_one_process_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actor.processes.usable_cores", lambda: 48)
    assert process_count("auto") == 48
    assert process_count(3) == 3


def test_more_processes_than_cores_are_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("actor.processes.usable_cores", lambda: 2)
    with caplog.at_level(logging.WARNING):
        assert process_count(2) == 2
        assert caplog.messages == []
        assert process_count(5) == 5
    (line,) = caplog.messages
    assert line.startswith("5 actor processes on 2 cores take turns: --processes auto")


@pytest.mark.parametrize("wanted", [0, -1])
def test_less_than_one_process_is_refused(wanted: int) -> None:
    with pytest.raises(ConfigError, match=f"--processes {wanted}: must be at least 1"):
        process_count(wanted)
