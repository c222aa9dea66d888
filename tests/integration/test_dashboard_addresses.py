"""What the dashboard answers where it listens, asked without a browser."""

import contextlib
import re
import socket
import urllib.error
from pathlib import Path

import pytest

from deploy.dashboard.beside import page_beside
from tests.integration.conftest import Start
from tests.integration.dashboards import fetch, serve
from tests.integration.runs import until

pytestmark = pytest.mark.slow

NICEGUI = pytest.importorskip("nicegui", reason="the extra dashboard is not installed")


def test_a_video_is_looked_for_among_the_runs_and_nowhere_else(
    start: Start, runs_dir: Path
) -> None:
    """Names that lead out of the directory are names of no run."""
    (runs_dir.parent / "videos").mkdir()
    (runs_dir.parent / "videos" / "outside.mp4").write_bytes(b"not for you")
    _, address = serve(start, runs_dir)
    for path in ("..", ".", "%2e%2e", "..%2f", "%2e%2e%2fvideos", "..%5c", "%00", "/etc/passwd",
                 "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd"):  # fmt: skip
        status, content = fetch(f"{address}video/{path}")
        assert status in (307, 400, 404) or b"NiceGUI" in content, path
        assert b"not for you" not in content
        assert b"root:" not in content
    for path in ("_nicegui/../../../../etc/passwd", "_nicegui/%2e%2e/%2e%2e/etc/passwd",
                 "static/..%2f..%2fetc/passwd"):  # fmt: skip
        assert b"root:" not in fetch(address + path)[1]


def test_looking_changes_nothing(start: Start, runs_dir: Path) -> None:
    """No address of the page writes: what lies in the runs' directory stays as it is."""
    _, address = serve(start, runs_dir)
    before = {p: p.stat().st_mtime_ns for p in runs_dir.rglob("*")}
    for path in ("", "?run=cartpole-2", "?delete=cartpole-2", "video/cartpole-2", "delete", "stop",
                 "shutdown", "docs", "openapi.json"):  # fmt: skip
        assert fetch(address + path)[0] in (200, 404)
    assert fetch(address)[0] == 200
    assert {p: p.stat().st_mtime_ns for p in runs_dir.rglob("*")} == before


def test_without_a_token_given_one_is_made_and_insecure_wants_none(
    start: Start, runs_dir: Path
) -> None:
    _, address = serve(start, runs_dir, "--host", "0.0.0.0")
    assert re.search(r"/\?token=[0-9a-f]{32}$", address)
    _, address = serve(start, runs_dir, "--host", "0.0.0.0", "--insecure")
    port = int(re.search(r":(\d+)/$", address)[1])  # type: ignore[index]
    assert fetch(f"http://127.0.0.1:{port}/")[0] == 200


def test_beside_a_launch_a_taken_port_gives_way_to_a_free_one(runs_dir: Path) -> None:
    said: list[str] = []
    with contextlib.ExitStack() as taken:
        with contextlib.suppress(OSError):
            taken.enter_context(socket.create_server(("127.0.0.1", 8080)))
        with page_beside(runs_dir, said.append):
            until(lambda: said, "the address")
            address = said[0].split(" at ")[-1]
            assert ":8080/" not in address
            assert fetch(address)[0] == 200
    with pytest.raises(urllib.error.URLError):
        fetch(address)


def test_a_port_that_is_taken_is_one_clear_line(start: Start, runs_dir: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        command = start("deploy", "dashboard", str(runs_dir), "--port", str(port))
        assert command.wait() == 6
    assert command.output().startswith(f"error: port {port} of 127.0.0.1 is in use")
    assert len(command.output().splitlines()) == 1
