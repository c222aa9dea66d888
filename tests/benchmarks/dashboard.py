"""How soon does the dashboard show something? A real browser, a hundred finished runs, and one that
trains meanwhile on the same machine.

First paint: from the request to something on the screen, list: to the list of runs, whole: to all
charts of the live run; with nothing in the browser's cache. Update: between two changes of its env
steps. Plain: first paint of the same list as a file of HTML, what browser and machine need anyway.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from deploy.dashboard.catalogue import Catalogue
from tests import browser
from tests.benchmarks.report import Figure, report
from tests.browser import chromium
from tests.made_runs import make_finished_run
from tests.waiting import wait_until

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

GOAL_S = 1.0
WATCH = """
new MutationObserver(() => {
  if (!window.listed && document.querySelector('tr.run'))
    requestAnimationFrame(() => { window.listed = performance.now(); });
  if (!window.whole && document.querySelectorAll('.chart svg').length >= 6)
    window.whole = performance.now();
  const steps = document.querySelectorAll('.tile dd')[4]?.innerText;
  if (steps && steps != window.steps) {
    window.steps = steps;
    (window.changes ??= []).push(performance.now());
  }
}).observe(document, {childList: true, subtree: true, characterData: true});
"""
"""Notes when things are there; milliseconds since the request."""
PAINT = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def run(
    finished: int = 100,
    loads: int = 7,
    watch_s: float = 20.0,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Load the page again and again.

    Args:
        finished: how many finished runs there are, of ten minutes each.
        loads: how often the page is loaded.
        watch_s: how long updates are watched, in seconds.
        as_json: one line of JSON for each figure.
    """
    if browser.missing():
        raise SystemExit(browser.missing())
    with tempfile.TemporaryDirectory() as directory:
        runs_dir = Path(directory)
        now_s = time.time()
        for i in range(finished):
            make_finished_run(runs_dir / f"run-{i}", i, ended_s=now_s - 3_600 - i)
        with _training(runs_dir / "live"), _served(runs_dir) as address, chromium() as page:
            found = _figures(page, address, loads, watch_s)
            found.append(_plain(page, runs_dir, loads))
    report(found, as_json=as_json)


@contextlib.contextmanager
def _training(run_dir: Path) -> Iterator[None]:
    """CartPole's preset, without an end."""
    command = [sys.executable, "-m", "deploy", "launch", "--preset", "cartpole"]
    command += ["--run-dir", str(run_dir), "--target-return", "none"]
    command += ["--total-env-steps", str(10**12)]
    launch = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        metrics = run_dir / "metrics.jsonl"
        wait_until(
            lambda: metrics.exists() and '"learner_loss": 0.' in metrics.read_text(),
            "the run trains",
            limit_s=120.0,
        )
        yield
    finally:
        launch.terminate()
        launch.wait()


@contextlib.contextmanager
def _served(runs_dir: Path) -> Iterator[str]:
    command = [sys.executable, "-u", "-m", "deploy", "dashboard", str(runs_dir), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split(" at ")[-1].strip()
    finally:
        server.terminate()
        server.wait()


def _plain(page: "Chrome", runs_dir: Path, loads: int) -> Figure:
    runs = Catalogue(runs_dir).runs()
    cells = ([run.name, run.state, run.env, run.score, run.env_steps, run.wall_s] for run in runs)
    rows = ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
    path = runs_dir / "plain.html"
    path.write_text(f"<!doctype html><table>{''.join(rows)}</table>")
    times = []
    for _ in range(loads):
        page.get(path.as_uri())
        wait_until(lambda: page.execute_script(PAINT), "something is painted")
        times.append(page.execute_script(PAINT) / 1_000)
    return Figure("dashboard.plain", statistics.median(times), "s")


def _figures(page: "Chrome", address: str, loads: int, watch_s: float) -> list[Figure]:
    page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    page.get(address)
    times: dict[str, list[float]] = {"first_paint": [], "list": [], "whole": []}
    for _ in range(loads):
        page.execute_cdp_cmd("Network.clearBrowserCache", {})
        page.get(address)
        wait_until(lambda: page.execute_script("return window.whole"), "all charts are there")
        times["first_paint"].append(page.execute_script(PAINT) / 1_000)
        times["list"].append(page.execute_script("return window.listed") / 1_000)
        times["whole"].append(page.execute_script("return window.whole") / 1_000)
    time.sleep(watch_s)
    changes = page.execute_script("return window.changes")
    gaps = [(b - a) / 1_000 for a, b in pairwise(changes)]
    found = [
        Figure(f"dashboard.{name}", statistics.median(values), "s", GOAL_S, limit_name="goal")
        for name, values in times.items()
    ]
    found.append(
        Figure("dashboard.first_paint.slowest", max(times["first_paint"]), "s", GOAL_S,
               limit_name="goal")
    )  # fmt: skip
    found.append(
        Figure("dashboard.update", statistics.median(gaps), "s", GOAL_S, limit_name="goal")
    )
    return found
