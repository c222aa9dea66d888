"""What deploy/monitoring asks Prometheus, for tests."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "rules" / "zapex.yml"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "zapex.json"
ALERT_TESTS = ROOT / "tests" / "unit" / "deploy" / "alerts.yml"
SELECTOR = re.compile(r"\b(?P<name>up|zapex_[a-z0-9_]+)(?P<labels>\{[^}]*\})?")
"""A metric by its name, and what narrows it down."""


class Expression(NamedTuple):
    """PromQL, and where it stands."""

    where: str
    promql: str


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alert_expressions() -> list[Expression]:
    return [Expression(rule["alert"], rule["expr"]) for rule in alerts()]


def panels() -> list[dict[str, Any]]:
    """All that show something."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def panel_expressions() -> list[Expression]:
    return [
        Expression(f"{panel['title']}-{target['refId']}", target["expr"])
        for panel in panels()
        for target in panel["targets"]
    ]


def selectors(promql: str) -> Iterator[str]:
    """Each metric that an expression reads, as an expression of its own."""
    for found in SELECTOR.finditer(promql):
        yield found["name"] + (found["labels"] or "")
