"""Alert rules and dashboard against the table of metrics, and against promtool."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.exporter import PREFIX
from common.metric_table import METRICS
from common.metrics import Kind
from learner.targets import LINKS
from tests.monitoring import (
    ALERT_TESTS,
    DASHBOARD,
    MONITORING,
    ROOT,
    RULES,
    SELECTOR,
    Expression,
    alert_expressions,
    alerts,
    panel_expressions,
    panels,
)

EXPRESSIONS = [*alert_expressions(), *panel_expressions()]
LEVELS = {"learner_updates_total"}
"""Counters whose value itself means something: versions of weights are numbers of updates."""
PARTS_OF_HISTOGRAMS = re.compile(r"_(bucket|sum|count)$")
MATCHED_BY_RUN = re.compile(r"(?P<one>.+) [-+*/] on \(run\)(?: (?P<other>(?!group_right).+)| .+)")
"""Arithmetic on series of the same run; `other` is not there where that side may have several."""
PAGE = ROOT / "docs" / "monitoring.md"


def names(promql: str) -> set[str]:
    """Metrics of zapex that an expression reads, without the prefix."""
    found = {match["name"] for match in SELECTOR.finditer(promql)}
    return {name.removeprefix(PREFIX) for name in found if name.startswith(PREFIX)}


def is_of_one_process(promql: str) -> bool:
    """Whether a run has no more than one process with the metrics that an expression reads."""
    bases = {PARTS_OF_HISTOGRAMS.sub("", name) for name in names(promql)}
    return all(METRICS[base].role in ("learner", "head") for base in bases)


def is_growth(promql: str, name: str) -> bool:
    """Whether the metric is read by its growth, wherever it is read."""
    reads = re.findall(rf"\b(\w+\()?{PREFIX}{name}\b(\{{[^}}]*\}})?(\[)?", promql)
    return bool(reads) and all(
        function in ("rate(", "increase(") and window for function, _, window in reads
    )


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=[e.where for e in EXPRESSIONS])
def test_what_is_asked_for_is_declared_and_read_as_its_kind_may_be(expression: Expression) -> None:
    for name in names(expression.promql):
        if name in METRICS:
            kind = METRICS[name].kind
            assert kind is not Kind.HISTOGRAM, f"{name} is shown in parts alone"
            counts = kind is Kind.COUNTER and name not in LEVELS
        else:
            assert METRICS[PARTS_OF_HISTOGRAMS.sub("", name)].kind is Kind.HISTOGRAM
            counts = True
        if name not in LEVELS:
            assert is_growth(expression.promql, name) == counts, name


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=[e.where for e in EXPRESSIONS])
def test_quantiles_keep_the_ranges_apart(expression: Expression) -> None:
    for by in re.findall(r"histogram_quantile\([\d.]+, sum by \(([^)]*)\)", expression.promql):
        assert "le" in by.split(", ")


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=[e.where for e in EXPRESSIONS])
def test_a_run_has_one_of_what_is_matched_by_its_name(expression: Expression) -> None:
    """Prometheus refuses the whole query where there are several."""
    found = MATCHED_BY_RUN.fullmatch(expression.promql)
    for side in found.groups("") if found else ():
        assert side.startswith("sum by (run) (") or is_of_one_process(side), side


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_what_several_processes_tell_is_combined_or_told_apart(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        of_each = not is_of_one_process(target["expr"]) and " by (" not in target["expr"]
        assert not of_each or "{{number}}" in target["legendFormat"], target["refId"]


def test_every_metric_is_in_the_dashboard() -> None:
    shown = set().union(*(names(e.promql) for e in panel_expressions()))
    # By another that says the same.
    left_out = {"learner_env_steps_total"}
    assert {PARTS_OF_HISTOGRAMS.sub("", name) for name in shown} == METRICS.keys() - left_out


# ------------------------------------------------------------------------------------------ alerts


@pytest.mark.parametrize("rule", alerts(), ids=[rule["alert"] for rule in alerts()])
def test_an_alert_says_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description"}
    assert "$labels.run" in rule["annotations"]["summary"]
    assert len(rule["annotations"]["description"]) > 60


def test_alerts_have_names_of_their_own_and_a_place_on_the_page() -> None:
    named = [rule["alert"] for rule in alerts()]
    assert len(named) == len(set(named))
    page = PAGE.read_text()
    assert [name for name in named if f"`{name}`" not in page] == []


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    fired = set(re.findall(r'alertname="(\w+)", run="bad"', ALERT_TESTS.read_text()))
    assert fired == {rule["alert"] for rule in alerts()}


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool")
    return found


@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", str(RULES)),
        ("check", "config", str(MONITORING / "prometheus.yml")),
        ("test", "rules", str(ALERT_TESTS)),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_promtool_finds_nothing_wrong(words: tuple[str, ...], promtool: str) -> None:
    done = subprocess.run([promtool, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# --------------------------------------------------------------------------------------- dashboard


def test_panels_have_an_id_of_their_own_a_unit_and_an_explanation() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels():
        assert panel["title"]
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_no_two_panels_lie_over_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_every_panel_is_of_the_runs_that_are_chosen() -> None:
    for expression in panel_expressions():
        chosen = expression.promql.count('run=~"$run"')
        assert chosen == len(SELECTOR.findall(expression.promql)), expression.where


# -------------------------------------------------------------------------- configuration, compose


def test_prometheus_looks_where_the_runs_of_this_checkout_leave_their_links() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (pattern,) = job["file_sd_configs"][0]["files"]
    assert (MONITORING / pattern).parent.resolve() == ROOT / "runs" / LINKS
    assert job["honor_labels"]


def test_grafana_finds_its_data_and_its_dashboards() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "zapex.yml").read_text())[
        "datasources"
    ]
    services = compose()
    assert source["url"] == "$ZAPEX_PROMETHEUS"
    address = services["grafana"]["environment"]["ZAPEX_PROMETHEUS"].removeprefix("http://")
    assert f"--web.listen-address={address}" in services["prometheus"]["command"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "zapex.yml").read_text())[
        "providers"
    ]
    mounted = [volume.split(":") for volume in services["grafana"]["volumes"]]
    assert ["./grafana/dashboards", provider["options"]["path"], "ro"] in mounted
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"


def compose() -> dict[str, Any]:
    """The services of compose.yml, laid over those of services.yml that they extend."""
    over, under = (
        yaml.safe_load((MONITORING / name).read_text())["services"]
        for name in ("compose.yml", "services.yml")
    )
    for name, service in over.items():
        assert service["extends"] == {"file": "services.yml", "service": name}
        service["volumes"] = under[name]["volumes"] + service["volumes"]
        environment = under[name].get("environment", {}) | service.get("environment", {})
        over[name] = {**under[name], **service, "environment": environment}
    loaded: dict[str, Any] = over
    return loaded


def test_docker_compose_reads_the_file() -> None:
    binary = shutil.which("docker-compose")
    if binary is None:
        pytest.skip("docker-compose")
    file = str(MONITORING / "compose.yml")
    words = [binary, "-f", file, "--profile", "monitoring", "config", "--services"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.split()) == ["grafana", "prometheus"], done.stderr


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_services_are_of_the_profile_pinned_and_on_loopback(name: str) -> None:
    service = compose()[name]
    assert service["profiles"] == ["monitoring"]
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
    assert "ports" not in service
    if name == "grafana":
        assert service["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
        assert service["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    else:
        assert "--web.listen-address=127.0.0.1:9090" in service["command"]


def test_what_is_mounted_from_the_checkout_is_there() -> None:
    for service in compose().values():
        for volume in service["volumes"]:
            if volume.startswith("."):
                assert (MONITORING / volume.partition(":")[0]).is_dir()


def test_the_paths_of_prometheus_lead_to_the_mounted_runs() -> None:
    """Its configuration's ../../runs, seen from where the container has the configuration."""
    volumes = [v.rsplit(":", 2) for v in compose()["prometheus"]["volumes"]]
    mounted = {source: Path(target) for source, target, *_ in volumes}
    assert mounted["${ZAPEX_RUNS:-../../runs}"] == mounted["."].parents[1] / "runs"
