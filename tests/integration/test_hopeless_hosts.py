"""`python -m deploy launch --hosts FILE` with a host that can never act: ssh is a script."""

from pathlib import Path

import pytest

from tests.integration.conftest import Start
from tests.integration.runs import ENDLESS, Command, head_of, status, updates_beyond, write_preset

SSH = """#!/bin/sh
case "$*" in
  *--inference*) exec cat ;;
esac
echo "error: no such environment here"
exit 4
"""
"""Everything but an inference process, which works until its input ends."""
HOSTS = """
head = {{ bind = "tcp://127.0.0.1:0", actors = {here} }}
[[hosts]]
name = "cpu-1"
inference = {inference}
"""


@pytest.fixture(autouse=True)
def hopeless_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=":")


def launched(start: Start, tmp_path: Path, in_file: int, in_words: int, inference: str) -> Command:
    """A run with so many actors on this host, as file and command line have it."""
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS)
    (tmp_path / "hosts.toml").write_text(HOSTS.format(here=in_file, inference=inference))
    words = ("--preset", preset, "--run-dir", "run", "--actors-here", str(in_words))
    return start("deploy", "launch", "--hosts", "hosts.toml", *words)


def test_the_run_ends_when_nobody_is_left_who_acts(start: Start, tmp_path: Path) -> None:
    launch = launched(start, tmp_path, in_file=1, in_words=0, inference="true")
    assert launch.wait() == 4
    assert launch.line("error: cpu-1 actors: no such environment here")
    assert launch.nothing_left()


def test_it_goes_on_with_the_actors_of_this_host(start: Start, tmp_path: Path) -> None:
    launch = launched(start, tmp_path, in_file=0, in_words=2, inference="false")
    launch.line("cpu-1 actors: no such environment here: the run goes on without it")
    told = status(head_of(launch), updates_beyond(20))
    # As many as the command line has, which the run was made for: ε is spread over them all.
    roles = [member["role"] for member in told["members"]]
    assert roles.count("actor") == 2
