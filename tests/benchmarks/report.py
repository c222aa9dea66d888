"""A benchmark's result: figures beside their limits and peers, as a table or as lines of JSON."""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity of zapex, or of a peer where the name ends in its name in brackets."""

    name: str
    """Benchmark, a dot, what was measured."""
    value: float
    unit: str
    limit: float | None = None
    """What cannot be exceeded, measured in the same run, in the same unit."""
    peer: float | None = None
    """The best peer in the same run, in the same unit."""
    peer_name: str | None = None
    limit_name: str | None = None

    @property
    def vs_limit(self) -> float | None:
        """value / limit: above 1 is better for rates, below 1 for times."""
        return self.value / self.limit if self.limit else None

    @property
    def vs_peer(self) -> float | None:
        """value / peer: above 1 is better for rates, below 1 for times."""
        return self.value / self.peer if self.peer else None

    def as_dict(self) -> dict[str, Any]:
        """The keys and values of a JSON line."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "limit": self.limit,
            "limit_name": self.limit_name,
            "peer": self.peer,
            "peer_name": self.peer_name,
            "vs_limit": self.vs_limit,
            "vs_peer": self.vs_peer,
        }


def report(figures: Iterable[Figure], *, as_json: bool) -> None:
    """Prints one line of JSON for each figure, or one table of all."""
    if as_json:
        for figure in figures:
            print(json.dumps(figure.as_dict()), flush=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for heading in ("figure", "value", "unit", "limit", "of limit", "best peer", "of peer", "peer"):
        if heading in ("figure", "unit", "peer"):
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for figure in figures:
        table.add_row(
            figure.name.replace("[", r"\["),
            _number(figure.value),
            figure.unit,
            _number(figure.limit),
            _ratio(figure.vs_limit),
            _number(figure.peer),
            _ratio(figure.vs_peer),
            figure.peer_name or "",
        )
    # Of a pipe or a file rich would assume 80 columns.
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _number(value: float | None) -> str:
    """Three significant digits at least, thousands apart."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"
