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
    """What can only be exceeded by doing less work than what `limit_name` names; measured in the
    same run, in the same unit."""
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


COLUMNS = {
    "figure": False,
    "value": True,
    "unit": False,
    "limit": True,
    "of it": True,
    "which": False,
    "best peer": True,
    "of it ": True,
    "which ": False,
}
"""Headings of a table, and whether numbers stand below."""


def cells(figure: Figure) -> list[str]:
    """A figure's row, by `COLUMNS`."""
    return [
        figure.name,
        number(figure.value),
        figure.unit,
        number(figure.limit),
        ratio(figure.vs_limit),
        figure.limit_name or "",
        number(figure.peer),
        ratio(figure.vs_peer),
        figure.peer_name or "",
    ]


def report(figures: Iterable[Figure], *, as_json: bool) -> None:
    """Prints one line of JSON for each figure, or one table of all."""
    if as_json:
        for figure in figures:
            print(json.dumps(figure.as_dict()), flush=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for heading, is_number in COLUMNS.items():
        if is_number:
            table.add_column(heading, justify="right", no_wrap=True)
        else:
            table.add_column(heading, overflow="fold")
    for figure in figures:
        table.add_row(*(cell.replace("[", r"\[") for cell in cells(figure)))
    # Of a pipe or a file rich would assume 80 columns.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def number(value: float | None) -> str:
    """Three significant digits at least, thousands apart."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """Two decimals and a cross."""
    return "" if value is None else f"{value:.2f}×"
