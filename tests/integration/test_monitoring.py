"""A real Prometheus, configured as deploy/monitoring says, beside a run."""

import contextlib
import json
import math
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from learner.targets import LINKS
from tests.integration.conftest import Start
from tests.integration.runs import ENDLESS, free_ports, until, write_preset
from tests.monitoring import (
    MONITORING,
    Expression,
    alert_expressions,
    panel_expressions,
    selectors,
)

ROLES = ("actor", "evaluator", "inference", "learner", "replay_server")
"""One process of each."""
EVERYTHING = {"$__rate_interval": "30s", "$run": ".*"}
"""What Grafana puts in for its variables."""


class Prometheus:
    """What it answers to."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}"

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP API; None as long as it does not listen."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            # 503 until its storage is open.
            if error.code != 503:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        except urllib.error.URLError:
            pass
        return None

    def numbers(self, promql: str) -> list[float]:
        """What an expression is now, of each series that has a number."""
        data = self.get("query", query=promql)
        found = [float(series["value"][1]) for series in data["result"]] if data else []
        return [number for number in found if not math.isnan(number)]


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    """Looks for runs in the test's directory, as one of a checkout does in the checkout's."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus")
    shutil.copytree(MONITORING, tmp_path / "deploy" / "monitoring")
    address = f"127.0.0.1:{free_ports(1)}"
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={tmp_path / 'deploy' / 'monitoring' / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'prometheus'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Prometheus(address)
    finally:
        process.terminate()
        process.wait()


def filled_in(expression: Expression) -> str:
    promql = expression.promql
    for variable, value in EVERYTHING.items():
        promql = promql.replace(variable, value)
    return promql


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_dashboard_and_rules_find_their_data_in_a_run(
    tmp_path: Path, start: Start, prometheus: Prometheus
) -> None:
    """An alert's expression gives nothing while all is well, and some look back for longer than
    this test lasts: of each, everything that it reads must be there."""
    preset = write_preset(tmp_path / "preset.toml", total_env_steps=ENDLESS, inference="host")
    (tmp_path / "runs").mkdir()
    words = ("--preset", preset, "--run-dir", "runs/live", "--metrics-port", "0")
    launch = start("deploy", "launch", *words)
    launch.line("ready after")

    with contextlib.suppress(TimeoutError):
        until(lambda: len(prometheus.numbers('up{job="zapex"} == 1')) == len(ROLES), "all scraped")
    by_role = prometheus.get("query", query='count by (role, run) (up{job="zapex"} == 1)')
    assert sorted(series["metric"]["role"] for series in by_role["result"]) == list(ROLES)
    assert {series["metric"]["run"] for series in by_role["result"]} == {"live"}

    wanted = [(e.where, filled_in(e)) for e in panel_expressions()]
    wanted += [(e.where, one) for e in alert_expressions() for one in selectors(e.promql)]

    def without_data() -> list[str]:
        return [f"{where}: {promql}" for where, promql in wanted if not prometheus.numbers(promql)]

    with contextlib.suppress(TimeoutError):
        until(lambda: not without_data(), "everything has data")
    assert without_data() == []
    health = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in health} == {
        e.where: "ok" for e in alert_expressions()
    }
    assert prometheus.numbers('ALERTS{alertstate="firing"}') == []

    # A run that ends in peace leaves nothing to look for.
    launch.process.send_signal(signal.SIGINT)
    launch.wait()
    assert list((tmp_path / "runs" / LINKS).iterdir()) == []
    until(lambda: not prometheus.get("targets", state="active")["activeTargets"], "no targets")
