"""`python -m replay_server`, as far as it comes without a head."""

import socket
import sys

import pytest

import replay_server.__main__
from replay_server.server import ReplayOptions
from tests.integration.runs import own_logging


def test_a_port_alone_is_advertised_under_this_hosts_name(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[ReplayOptions] = []
    monkeypatch.setattr("replay_server.server.run_replay_server", lambda o, *_: told.append(o))
    for address in ("tcp://:5560", "tcp://replay:5560", ""):
        monkeypatch.setattr(sys, "argv", ["replay_server", "--advertise", address])
        with own_logging():
            assert replay_server.__main__.main() == 0
    assert [options.advertise for options in told] == [
        f"tcp://{socket.gethostname()}:5560", "tcp://replay:5560", "",
    ]  # fmt: skip


def test_a_number_and_whoever_was_here_are_two_ways_to_take_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["replay_server", "--take-over", "--number", "0"])
    assert replay_server.__main__.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: --take-over takes over the number, too: drop --number"
