"""Why a head does not answer is found out on the spot."""

import socket

import pytest

from common import reachability
from common.reachability import why_silent


def test_a_name_that_does_not_resolve_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(reachability.socket, "create_connection", unknown)
    assert why_silent("tcp://gpu-bx:5550") == (
        "the name gpu-bx does not resolve here: check its spelling, DNS or /etc/hosts"
    )


def test_a_port_where_nobody_listens_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # And does not listen.
        port = taken.getsockname()[1]
        assert why_silent(f"tcp://127.0.0.1:{port}").startswith(f"nobody listens at port {port}")


def test_somebody_who_listens_and_says_nothing_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert why_silent(address).startswith("somebody listens there")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError("timed out"), "its host does not answer"),
        (OSError(113, "No route to host"), "No route to host"),
    ],
)
def test_a_host_that_is_away_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def away(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(reachability.socket, "create_connection", away)
    why = why_silent("tcp://10.0.0.7:5550")
    assert why == f"{words}: is the host up, and does a firewall let port 5550 through?"


@pytest.mark.parametrize("address", ["ipc:///tmp/nowhere", "inproc://head"])
def test_an_address_within_the_host_is_not_probed(address: str) -> None:
    assert why_silent(address) == "is the learner running, and is this its address?"
