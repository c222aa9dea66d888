"""The command line: what cannot be served is refused in one line, and who needs a token."""

import importlib.util
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import AddressInUse, ConfigError, RunDirectoryError, ZapexError
from deploy.dashboard.options import Dashboard, check, is_loopback, token_for

HAS_NICEGUI = importlib.util.find_spec("nicegui") is not None


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"runs_dir": Path("absent")}, RunDirectoryError, "absent is no directory"),
        ({"port": 70_000}, ConfigError, "must be between 0 and 65535"),
        ({"token": ""}, ConfigError, "--token"),
        ({"token": "with space"}, ConfigError, "--token"),
    ],
)
def test_what_cannot_be_served_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    error: type[ZapexError],
    says: str,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    with pytest.raises(error, match=says):
        check(Dashboard(**{"runs_dir": tmp_path, **options}))


def test_a_missing_package_is_said_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs the package nicegui: pip install 'zapex\[dash"):
        check(Dashboard(runs_dir=tmp_path))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("box.example", False),
    ],
)
def test_only_what_other_hosts_reach_needs_a_token(
    tmp_path: Path, host: str, loopback: bool
) -> None:
    assert is_loopback(host) == loopback
    options = {"runs_dir": tmp_path, "host": host}
    made = token_for(Dashboard(**options))
    if loopback:
        assert made is None
    else:
        assert made is not None
        assert len(made) == 32
        assert made != token_for(Dashboard(**options))
    assert token_for(Dashboard(**options, insecure=True)) is None
    # Whoever gives one means it.
    assert token_for(Dashboard(**options, token="abc", insecure=True)) == "abc"


@pytest.mark.skipif(not HAS_NICEGUI, reason="the extra dashboard is not installed")
def test_a_port_that_is_taken_and_an_interface_that_is_not_there_are_said(taken_port: int) -> None:
    from deploy.dashboard.server import listen

    with pytest.raises(AddressInUse, match=f"port {taken_port} of 127.0.0.1 is in use"):
        listen("127.0.0.1", taken_port)
    with pytest.raises(ConfigError, match=r"cannot serve at 203\.0\.113\.1:0"):
        listen("203.0.113.1", 0)


@pytest.mark.skipif(not HAS_NICEGUI, reason="the extra dashboard is not installed")
@pytest.mark.parametrize(
    ("host", "token", "shown"),
    [
        ("127.0.0.1", None, "http://127.0.0.1:80/"),
        ("::1", None, "http://[::1]:80/"),
        ("0.0.0.0", "abc", "http://box:80/?token=abc"),
    ],
)
def test_the_address_can_be_put_into_a_browser(
    monkeypatch: pytest.MonkeyPatch, host: str, token: str | None, shown: str
) -> None:
    from deploy.dashboard.server import address

    monkeypatch.setattr("socket.gethostname", lambda: "box")
    assert address(host, 80, token) == shown
