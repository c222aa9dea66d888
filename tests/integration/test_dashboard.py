"""The dashboard in a real browser: `tests/run.sh --slow tests/integration/test_dashboard.py`."""

import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import browser
from tests.browser import PHONE, chromium
from tests.integration.conftest import Start
from tests.integration.dashboards import fetch, serve
from tests.integration.runs import (
    ENDLESS,
    head_of,
    status,
    until,
    updates_beyond,
    write_preset,
)
from tests.made_runs import make_finished_run

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(browser.missing()), reason=browser.missing()),
]

NICEGUI = pytest.importorskip("nicegui", reason="the extra dashboard is not installed")

ROWS = "return [...document.querySelectorAll('tr.run')].map(row => row.dataset.run)"
CHOSEN = "return document.querySelector('tr.run.chosen')?.dataset.run"
SERIES = """
return [...document.querySelectorAll('.chart')].map(chart => chart.querySelectorAll('path').length)
"""
REQUESTS = "return performance.getEntriesByType('resource').map(entry => entry.name)"
OVERFLOW = "return document.documentElement.scrollWidth - window.innerWidth"


@pytest.fixture
def page() -> Iterator["Chrome"]:
    with chromium() as driver:
        yield driver


def opened(page: "Chrome", address: str) -> "Chrome":
    """The page, once its first figures are there."""
    page.get(address)
    shows(page, "document.querySelectorAll('.tile').length > 0", "the figures of a run")
    return page


def shows(page: "Chrome", condition: str, what: str) -> None:
    until(lambda: page.execute_script(f"return {condition}"), what)


def text(page: "Chrome", selector: str) -> str:
    found: str = page.execute_script("return document.querySelector(arguments[0])?.innerText || ''",
                                     selector)  # fmt: skip
    return found


def tile(page: "Chrome", name: str) -> str:
    """The value of a figure."""
    script = """
    const tiles = [...document.querySelectorAll('.tile')];
    const tile = tiles.find(tile => tile.innerText.startsWith(arguments[0]));
    return tile?.querySelector('dd').innerText || ''
    """
    found: str = page.execute_script(script, name)
    return found


def choose_to_compare(page: "Chrome", name: str) -> None:
    from selenium.webdriver import Keys

    field = page.find_element("css selector", ".versus input")
    field.click()
    field.send_keys(name)
    shows(page, "document.querySelectorAll('.q-menu .q-item').length == 1", "the only choice")
    field.send_keys(Keys.ARROW_DOWN, Keys.ENTER)


def make_video(path: Path) -> None:
    """Two seconds of a square that moves."""
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra watch is not installed")
    path.parent.mkdir()
    source = "testsrc=duration=2:size=160x120:rate=15"
    command = [ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi", "-i", source]
    command += ["-pix_fmt", "yuv420p", str(path)]
    subprocess.run(command, check=True, timeout=60)


def test_the_page_shows_finished_runs_without_complaint_and_asks_nobody_else(
    start: Start, runs_dir: Path, page: "Chrome"
) -> None:
    _, address = serve(start, runs_dir)
    opened(page, address)
    assert page.execute_script(ROWS) == ["cartpole-2", "cartpole-1", "cartpole-0"]
    assert page.execute_script(CHOSEN) == "cartpole-2"
    assert tile(page, "env steps") == "72k"  # 90 · 800
    assert "Actors wait 30% of the time" in text(page, ".diagnosis")  # 0.6 s of two actors
    shows(page, "[...document.querySelectorAll('.chart')].every(c => c.querySelector('svg'))",
          "the charts")  # fmt: skip
    assert all(paths > 5 for paths in page.execute_script(SERIES))
    assert text(page, ".settings.alone").split()[:2] == ["env", "CartPole-v1"]
    requests = page.execute_script(REQUESTS)
    assert len(requests) > 5
    assert {name for name in requests if not name.startswith((address, "data:"))} == set()
    assert browser.errors(page) == []


def test_keys_alone_choose_a_run_and_sort_the_list(
    start: Start, runs_dir: Path, page: "Chrome"
) -> None:
    from selenium.webdriver import Keys

    _, address = serve(start, runs_dir)
    opened(page, address)
    page.execute_script("document.querySelector('tr.run').focus()")
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    until(lambda: page.execute_script(CHOSEN) == "cartpole-1", "the second run")
    shows(page, "document.querySelector('h2').innerText == 'cartpole-1'", "its name")
    assert page.current_url.endswith("?run=cartpole-1")
    page.execute_script("document.querySelector('th.col-name').focus()")
    page.switch_to.active_element.send_keys(Keys.ENTER)
    until(lambda: page.execute_script(ROWS) == ["cartpole-0", "cartpole-1", "cartpole-2"], "order")
    # A reload shows the same run.
    page.refresh()
    until(lambda: page.execute_script(CHOSEN) == "cartpole-1", "the second run again")
    assert browser.errors(page) == []


def test_two_runs_are_compared(start: Start, runs_dir: Path, page: "Chrome") -> None:
    _, address = serve(start, runs_dir)
    opened(page, address)
    before = page.execute_script(SERIES)
    choose_to_compare(page, "cartpole-1")
    shows(page, "document.querySelectorAll('.differs').length > 0", "the difference")
    rows = page.execute_script(
        "return [...document.querySelectorAll('.configuration tbody tr')].map(row => row.innerText)"
    )
    assert [row.split("\t") for row in rows] == [
        ["seed", "2", "1"],
        ["learning_rate", "0.0003333333333333333", "0.0005"],
    ]
    assert page.execute_script("return document.querySelectorAll('.theirs').length") == 7
    until(lambda: page.execute_script(SERIES)[0] > before[0], "a second curve")
    assert page.current_url.endswith("?run=cartpole-2&versus=cartpole-1")
    assert browser.errors(page) == []


def test_curves_stand_over_steps_or_over_time(start: Start, runs_dir: Path, page: "Chrome") -> None:
    _, address = serve(start, runs_dir)
    opened(page, address)
    shows(page, "document.querySelector('.chart')?.textContent.includes('60K')", "60,000 steps")
    page.find_element("xpath", "//button[contains(., 'wall clock')]").click()
    shows(page, "document.querySelector('.chart').textContent.includes('80 s')", "80 seconds")
    assert browser.errors(page) == []


def test_the_newest_video_plays(start: Start, runs_dir: Path, page: "Chrome") -> None:
    make_video(runs_dir / "cartpole-2" / "videos" / "eval.mp4")
    _, address = serve(start, runs_dir)
    opened(page, address)
    shows(page, "document.querySelector('video')?.readyState >= 2", "the video's first frame")
    page.execute_script("document.querySelector('video').play()")
    shows(page, "document.querySelector('video').currentTime > 0.3", "a video that plays")
    assert browser.errors(page) == []


@pytest.mark.parametrize("size", [PHONE, (320, 640), (820, 1180)])
def test_nothing_is_wider_than_a_small_screen(
    start: Start, runs_dir: Path, size: tuple[int, int]
) -> None:
    _, address = serve(start, runs_dir)
    with chromium(size) as page:
        opened(page, f"{address}?run=cartpole-2&versus=cartpole-1")
        shows(page, "document.querySelector('.chart svg')", "a chart")
        assert page.execute_script(OVERFLOW) <= 0


def test_light_and_dark_follow_the_system_until_they_are_chosen(
    start: Start, runs_dir: Path
) -> None:
    _, address = serve(start, runs_dir)

    def is_dark() -> bool:
        return bool(page.execute_script("return document.body.classList.contains('body--dark')"))

    with chromium(dark=True) as page:
        opened(page, address)
        assert is_dark()
        button = page.find_element("css selector", ".theme")
        button.click()
        until(lambda: not is_dark(), "light")
        page.refresh()
        shows(page, "document.querySelectorAll('.tile').length > 0", "the figures of a run")
        assert not is_dark()
        assert text(page, ".theme") == "theme: light"
    with chromium() as page:
        opened(page, address)
        assert not is_dark()


def test_numbers_move_while_a_run_goes_on_and_stay_when_it_is_killed(
    start: Start, tmp_path: Path, page: "Chrome"
) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS, actors=2)
    run_dir = tmp_path / "runs" / "live"
    launch = start("deploy", "launch", "--preset", preset, "--run-dir", str(run_dir), "--dashboard")
    status(head_of(launch), updates_beyond(100))
    address = launch.line("dashboard of ").split(" at ")[-1]
    opened(page, address)
    assert page.execute_script(CHOSEN) == "live"

    def steps() -> float:
        return _number(tile(page, "env steps"))

    seen = {steps()}
    until(lambda: seen.add(steps()) or len(seen) >= 4, "four different numbers of steps")
    until(lambda: _number(tile(page, "updates/s")) > 0, "a rate")
    shows(page, "document.querySelector('.topology .actors').textContent.includes('2 actors')",
          "two actors")  # fmt: skip
    # Only the head knows what each environment earns, and the histograms.
    until(lambda: all(paths > 5 for paths in page.execute_script(SERIES)), "every chart's marks")
    assert "running" in text(page, ".title")
    with urllib.request.urlopen(address) as answer:
        assert answer.status == 200
    assert browser.errors(page) == []

    # The dashboard ends with its launch; another one shows what a killed run has left.
    launch.kill_family()
    _, address = serve(start, run_dir.parent)
    until(lambda: time.time() - (run_dir / "metrics.jsonl").stat().st_mtime > 15.5, "silence")
    opened(page, address)
    until(lambda: "killed" in text(page, ".title"), "the run's end")
    assert steps() >= max(seen)
    assert "Means over the whole run" in text(page, ".diagnosis")
    browser.errors(page)


def _number(shown: str) -> float:
    """Of a figure such as 12.3k."""
    match = re.fullmatch(r"([\d,.]+)([kMG]?)", shown)
    if match is None:
        return 0.0
    return float(match[1].replace(",", "")) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]]


def test_broken_runs_and_none_at_all_are_shown_with_a_line(
    start: Start, runs_dir: Path, page: "Chrome"
) -> None:
    broken = runs_dir / "broken"
    broken.mkdir()
    (broken / "config.toml").write_text("env = [")
    (broken / "metrics.jsonl").write_text('{"env_st')
    _, address = serve(start, runs_dir)
    opened(page, f"{address}?run=broken")
    assert "config.toml cannot be read" in text(page, "main")
    assert len(page.execute_script(ROWS)) == 4
    empty = runs_dir.parent / "empty"
    empty.mkdir()
    command, address = serve(start, empty)
    command.line("holds no run yet")
    page.get(address)
    shows(page, "document.body.innerText.includes('holds no run yet')", "the line")
    # A run that begins is found.
    make_finished_run(empty / "first", 0, seconds=10)
    until(lambda: page.execute_script(CHOSEN) == "first", "the first run")
    assert browser.errors(page) == []


def upgrade(port: int, *headers: str) -> str:
    """The first line of the answer to a request for the live connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        lines = [
            "GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket HTTP/1.1",
            f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *headers,
        ]  # fmt: skip
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return connection.recv(4096).decode("latin-1").splitlines()[0]


def test_where_others_can_reach_it_nobody_sees_it_without_the_token(
    start: Start, runs_dir: Path, page: "Chrome"
) -> None:
    _, address = serve(start, runs_dir, "--host", "0.0.0.0", "--token", "abc123")
    match = re.fullmatch(r"http://.+:(\d+)/\?token=abc123", address)
    assert match is not None
    port = int(match[1])
    here = f"http://127.0.0.1:{port}"
    for path in ("/", "/?token=wrong", "/video/cartpole-2", "/_nicegui_ws/socket.io/?EIO=4"):
        assert fetch(here + path) == (401, b"")
    assert "401" in upgrade(port)
    assert "101" in upgrade(port, f"Cookie: zapex_{port}=abc123")
    assert "403" in upgrade(port, f"Cookie: zapex_{port}=abc123", "Origin: http://evil.example")
    assert fetch(here, Authorization="Bearer abc123")[0] == 200
    opened(page, f"{here}/?token=abc123")
    assert page.current_url == f"{here}/"
    assert browser.errors(page) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_told_to_though_somebody_looks(
    start: Start, runs_dir: Path, page: "Chrome", number: signal.Signals
) -> None:
    command, address = serve(start, runs_dir)
    opened(page, address)
    command.process.send_signal(number)
    assert command.wait() == 130
    assert "Traceback" not in command.output()
    assert len(command.output().splitlines()) == 1
