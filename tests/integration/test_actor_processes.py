"""`python -m actor --processes N`: the actors of a host, which come and go together.

One run serves all tests; none of them ends it.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.conftest import Start
from tests.integration.runs import (
    ENDLESS,
    PACED,
    ROOT,
    Command,
    free_ports,
    head_of,
    status,
    until,
    write_preset,
)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("run")
    preset = write_preset(directory / "tiny.toml", total_env_steps=ENDLESS, **PACED)
    launch = Command(directory, "deploy", "launch", "--preset", preset, "--run-dir", "run")
    try:
        address = head_of(launch)
        launch.line("ready after")
        yield address
    finally:
        launch.kill_family()


def actors(now: dict[str, Any], pids: set[int]) -> set[int]:
    """Numbers of the actors that are these processes."""
    return {m["number"] for m in now["members"] if m["role"] == "actor" and m["pid"] in pids}


def children(host: Command) -> set[int]:
    return {process.pid for process in host.family()} - {host.process.pid}


def joined(head: str, host: Command, count: int) -> set[int]:
    """Pids of the host's actors once the head has so many of them."""
    status(head, lambda now: len(actors(now, children(host))) == count)
    members = status(head)["members"]
    return {m["pid"] for m in members if m["role"] == "actor"} & children(host)


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGKILL, "was killed by signal 9"),
        pytest.param(signal.SIGTERM, "ended with exit code 143", marks=pytest.mark.slow),
    ],
)
def test_one_that_somebody_ends_is_restarted_and_all_end_together(
    head: str, start: Start, number: signal.Signals, how: str
) -> None:
    host = start("actor", "--connect", head, "--processes", "2", "--envs", "3")
    pids = joined(head, host, 2)
    psutil.Process(min(pids)).send_signal(number)
    host.line(f"{how}: restarting in 0.2 s")
    again = joined(head, host, 2)
    assert again != pids
    host.process.terminate()
    assert host.wait() == 0
    assert host.nothing_left()
    status(head, lambda now: not actors(now, again))


def relays(now: dict[str, Any], pids: set[int]) -> set[int]:
    """Which of these processes are relays that have passed weights on."""
    members = (m for m in now["members"] if m["role"] == "relay" and m["pid"] in pids)
    return {m["pid"] for m in members if m["values"].get("relay_versions_total", 0.0) > 0}


def take_weights_from(relay: int, pids: set[int]) -> bool:
    """Whether all these processes are connected to where that one listens."""
    listening = psutil.Process(relay).net_connections("tcp")
    (port,) = {c.laddr.port for c in listening if c.status == psutil.CONN_LISTEN}
    return all(
        port in {c.raddr.port for c in psutil.Process(pid).net_connections("tcp") if c.raddr}
        for pid in pids
    )


def test_a_relay_among_them_serves_them_and_is_restarted_like_them(head: str, start: Start) -> None:
    host = start("actor", "--connect", head, "--processes", "2", "--relay")
    pids = joined(head, host, 2)

    def relay() -> int:
        now = status(head, lambda now: bool(relays(now, children(host))))
        return relays(now, children(host)).pop()

    first = relay()
    until(lambda: take_weights_from(first, pids), "the actors to take weights from the relay")
    psutil.Process(first).kill()
    host.line("relay: was killed by signal 9: restarting in 0.2 s")
    second = relay()
    until(lambda: take_weights_from(second, pids), "the same actors to follow it")
    host.process.terminate()
    assert host.wait() == 0
    assert host.nothing_left()


def test_when_a_relay_dies_for_good_actors_take_weights_from_the_head(
    head: str, start: Start
) -> None:
    relay = start("actor", "--connect", head, "--relay")
    host = start("actor", "--connect", head, "--processes", "1")
    pids = joined(head, host, 1)
    status(head, lambda now: len(relays(now, {relay.process.pid})) == 1)
    until(lambda: take_weights_from(relay.process.pid, pids), "the actor to follow the relay")
    relay.process.kill()
    killed_at = status(head)["learner"]["updates"]

    def newer(now: dict[str, Any]) -> bool:
        ours = [m["values"] for m in now["members"] if m["pid"] in pids]
        return any(values.get("actor_weights_version", 0.0) > killed_at for values in ours)

    status(head, newer)
    assert joined(head, host, 1) == pids


def test_when_the_parent_is_killed_the_actors_end(head: str, start: Start) -> None:
    host = start("actor", "--connect", head, "--processes", "2")
    joined(head, host, 2)
    host.process.kill()
    assert host.nothing_left()


@pytest.mark.parametrize("options", [[], ["--processes", "1"]], ids=["alone", "with a parent"])
def test_it_ends_with_the_one_who_holds_its_standard_input(
    head: str, tmp_path: Path, options: list[str]
) -> None:
    words = [sys.executable, "-m", "actor", "--connect", head, "--stop-at-eof", *options]
    with (tmp_path / "log").open("wb") as log:
        host = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stderr=log)
    try:
        family = [host.pid]

        def acts() -> bool:
            family[1:] = [p.pid for p in psutil.Process(host.pid).children(recursive=True)]
            return bool(actors(status(head), set(family)))

        until(acts, "the actor to join")
        assert host.stdin is not None
        host.stdin.close()
        until(lambda: host.poll() is not None, "its end")
        assert host.returncode == 0
        until(lambda: not any(map(psutil.pid_exists, family)), "the end of all")
        assert "standard input has ended: stopping" in (tmp_path / "log").read_text()
    finally:
        host.kill()
        host.wait()


def test_a_clock_of_its_own_does_not_matter(head: str, start: Start, tmp_path: Path) -> None:
    """Hosts have clocks that differ, and monotonic clocks that began when they were started."""
    (tmp_path / "skewed.py").write_text(
        "import time\n"
        "for name, by in (('time', 86_400), ('monotonic', 1e6), ('perf_counter', -1e5)):\n"
        "    setattr(time, name, lambda clock=getattr(time, name), by=by: clock() + by)\n"
        "import actor.__main__\n"
        "raise SystemExit(actor.__main__.main())\n"
    )
    host = start("skewed", "--connect", head, "--envs", "5")

    def acts(now: dict[str, Any]) -> bool:
        ours = [m for m in now["members"] if m["num_envs"] == 5]
        return any(m["values"].get("actor_env_steps_total", 0.0) > 100 for m in ours)

    assert status(head, acts)["wall_s"] < 3_600.0
    host.process.terminate()
    assert host.wait() == 0


REFUSED = [
    ("--processes 0", 2, "--processes 0: must be at least 1, or auto"),
    ("--processes 2 --evaluator", 2, "--processes are actors, and a --relay if you say so"),
    ("--processes 2 --number 1", 2, "cannot share a --number"),
    ("--processes 2 --metrics-port 9000", 2, "(0: each takes a free port)"),
    ("--connect tcp://no.such.host.invalid:1 --join-timeout 0.5", 5,
     "the name no.such.host.invalid does not resolve here"),
    ("--processes 2 --connect tcp://HERE:1 --join-timeout 0.5", 5, "nobody listens at port 1"),
    ("--connect gpu-box:5550", 2, "'gpu-box:5550' is no address: expected tcp://HOST:PORT"),
    ("--connect tcp://head..example:5550", 2,
     "'tcp://head..example:5550' is no address: 'head..example' is no name of a host"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "exit_code", "fragment"), REFUSED, ids=[c[0] for c in REFUSED])
def test_what_cannot_be_is_said_in_one_line(
    start: Start, words: str, exit_code: int, fragment: str
) -> None:
    command = start("actor", *words.replace("HERE", "127.0.0.1").split())
    assert command.wait() == exit_code
    assert command.nothing_left()
    assert "Traceback" not in command.output()
    last = command.output().splitlines()[-1]
    assert last.startswith("error: ")
    assert fragment in last


def test_whoever_waits_for_a_head_says_so_and_goes_on_waiting(start: Start, tmp_path: Path) -> None:
    port = free_ports(3)
    address = f"tcp://127.0.0.1:{port}"
    actor = start("actor", "--connect", address, "--join-timeout", "50")
    line = actor.line("no answer from a head at")
    assert f"nobody listens at port {port} there" in line
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=400)
    start("learner", "--config", preset, "--run-dir", "run", "--bind", address)
    bind = f"tcp://127.0.0.1:{port + 2}"
    start("replay_server", "--connect", address, "--bind", bind)
    actor.line("joined the run run as actor 0")
    assert actor.wait() == 0
