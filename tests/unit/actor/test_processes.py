"""How many actor processes a host gets, and how long it keeps them."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from actor import processes
from actor.options import MemberOptions
from actor.processes import process_count, usable_cores
from common.children import FAILED, READY
from common.errors import ConfigError, RoleFailed
from common.restarts import MAX_FAILURES, Patience
from common.security import Security
from tests.waiting import wait_until

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


# --------------------------------------------------------------------------------------- restarts


def scripted_child(
    directory: Path,
    scripts: Mapping[str, str],
    options: MemberOptions,
    security: Security,
    name: str,
    log_level: str,
    pipe: Connection,
) -> None:
    """In place of an actor or a relay: does what the script of its name says. Its starts are
    counted in a file."""
    # Whatever the process that it is forked from ignores: else it would be waited for in vain.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with (directory / name).open("a") as file:
        file.write("start\n")
    for word in scripts[name].split():
        what, _, value = word.partition("=")
        if what == "ready":
            pipe.send((READY, ""))
        elif what == "explain":
            pipe.send((FAILED, f"the {value} is missing"))
        elif what == "exit":
            sys.exit(int(value))
        elif what == "killed":
            os.kill(os.getpid(), int(value))
        elif what == "stay":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, processes.SIGNALS)
            threading.Event().wait()


Hosts = Callable[..., processes._Host]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """Makes one whose processes follow a script each; the first starts are done."""
    with contextlib.ExitStack() as stack:

        def make(**scripts: str) -> processes._Host:
            child = partial(scripted_child, tmp_path, scripts)
            monkeypatch.setattr(processes, "_child_main", child)
            made = processes._Host(
                MemberOptions("nowhere"), Security(), "info", Patience(0.01, 0.02)
            )
            stack.callback(made.stop)
            for name in scripts:
                made.start(name)
            return made

        yield make


def starts(tmp_path: Path, name: str) -> int:
    return len((tmp_path / name).read_text().splitlines()) if (tmp_path / name).exists() else 0


def polled_until(host: processes._Host, condition: Callable[[], bool], what: str) -> None:
    def turn() -> bool:
        host.poll()
        return condition()

    wait_until(turn, what)


def test_one_that_keeps_failing_ends_all_in_its_own_words(host: Hosts, tmp_path: Path) -> None:
    made = host(fails="ready explain=simulator exit=4", acts="ready stay")
    with pytest.raises(RoleFailed) as raised:
        polled_until(made, lambda: False, "it gives up")
    assert str(raised.value) == "the simulator is missing (5 restarts did not help)"
    assert raised.value.exit_code == 4
    assert starts(tmp_path, "fails") == 1 + MAX_FAILURES
    assert starts(tmp_path, "acts") == 1


@pytest.mark.parametrize(
    "script", ["explain=simulator exit=4", "ready explain=head exit=5", "explain=key exit=5"]
)
def test_what_is_hopeless_is_not_tried_again(host: Hosts, tmp_path: Path, script: str) -> None:
    made = host(fails=script)
    with pytest.raises(RoleFailed, match=r"the (simulator|head|key) is missing$"):
        polled_until(made, lambda: False, "it gives up")
    assert starts(tmp_path, "fails") == 1


@pytest.mark.parametrize("how", ["killed=9", "exit=143", "exit=9"])
def test_one_that_is_ended_from_outside_is_started_again_more_often_than_one_that_fails(
    host: Hosts, tmp_path: Path, how: str
) -> None:
    """By SIGKILL, by SIGTERM, and by its own memory limit."""
    made = host(acts=f"ready {how}")
    polled_until(made, lambda: starts(tmp_path, "acts") > 1 + MAX_FAILURES, "one restart more")


def test_a_relay_that_keeps_failing_leaves_the_actors_to_the_head(
    host: Hosts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = host(acts="ready stay", relay="ready explain=port exit=6")
    polled_until(made, lambda: "take their weights" in caplog.text, "it is given up")
    assert caplog.messages[-1] == (
        "relay: the port is missing (5 restarts did not help): "
        "the actors take their weights from the head"
    )
    assert made.acting
    assert starts(tmp_path, "acts") == 1


def test_a_relay_alone_does_not_keep_a_host(host: Hosts, tmp_path: Path) -> None:
    made = host(acts="ready exit=0", relay="ready stay")
    polled_until(made, lambda: not made.acting, "the actor's end")
    assert starts(tmp_path, "relay") <= 1
