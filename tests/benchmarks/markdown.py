"""`docs/benchmarks.md`: all figures of one run, how they were measured, on what, and when."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from tests.benchmarks.report import COLUMNS, Figure, cells
from tests.benchmarks.targets import verdicts

PACKAGES = ("numba", "numpy", "torch", "pyzmq", "gymnasium", "ale-py", "minatar")

NOT_RECORDED = "The machine and the versions were not recorded"

INTRODUCTION = """\
# Benchmarks

Every figure stands beside its limit and its peers, measured in the same run. Machines differ and
drift: only ratios within one run mean something. Ratios above 1 are better for rates, below 1 for
times and sizes. A name that ends in a name in brackets is a peer's own figure.
"""


@dataclass(frozen=True, slots=True)
class Group:
    """One benchmark's part of the page."""

    name: str
    how: str
    """How it was measured: its module's docstring."""
    figures: Sequence[Figure]
    failure: str = ""
    """Why there are no figures."""
    when: str = ""
    """The date, what else the machine did, and whether it was but a look."""
    facts: tuple[str, ...] = ()
    """The machine and the versions."""
    missing: tuple[str, ...] = ()
    """Peers that could not be imported and whatever failed, each with why in brackets."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Of the group that was measured last; the others tell what was different."""

    date: str
    command: str
    facts: Sequence[str]


def page(groups: Sequence[Group], circumstances: Circumstances) -> str:
    """The whole page."""
    parts = [INTRODUCTION, _circumstances(circumstances)]
    reached = verdicts(figure for group in groups for figure in group.figures)
    if reached:
        headings = {"figure": False, "beside": False, "required": True, "measured": True, "": False}
        parts.append("## What it must reach\n\n" + table(headings, (v.cells() for v in reached)))
    parts += [_section(group, circumstances.facts) for group in groups]
    return "\n".join(parts)


def _circumstances(c: Circumstances) -> str:
    return "\n".join([f"- {c.date}, `{c.command}`", *(f"- {fact}" for fact in c.facts)]) + "\n"


def _section(group: Group, facts: Sequence[str]) -> str:
    title = f"## {group.name}\n\n{group.how.strip()}\n"
    if not group.figures:
        why = group.failure or "what it needs is not installed"
        return f"{title}\nNot measured: {why}.\n"
    ours = [f for f in group.figures if "[" not in f.name]
    peers = [f for f in group.figures if "[" in f.name]
    notes = [group.when] if group.when else []
    if group.missing:
        notes.append(f"Not measured: {', '.join(group.missing)}.")
    if group.when:
        recorded = group.facts or (NOT_RECORDED,)
        notes += [f"{fact}." for fact in recorded if fact not in facts]
    parts = [title, *([f"{' '.join(notes)}\n"] if notes else []), _figures(group, ours)]
    if peers:
        parts += ["The peers' own:\n", _figures(group, peers)]
    return "\n".join(parts)


def _figures(group: Group, figures: Sequence[Figure]) -> str:
    """A table of those columns that are not empty."""
    rows = [cells(figure) for figure in figures]
    for row in rows:
        row[0] = row[0].removeprefix(f"{group.name}.")
    kept = [i for i in range(len(COLUMNS)) if any(row[i] for row in rows)]
    headings = list(COLUMNS.items())
    return table(dict(headings[i] for i in kept), ([row[i] for i in kept] for row in rows))


def table(headings: dict[str, bool], rows: Iterable[Sequence[str]]) -> str:
    """`headings`: and whether numbers stand below, which are aligned to the right."""
    lines = [
        "| " + " | ".join(heading.strip() for heading in headings) + " |",
        "|" + "|".join("--:" if is_number else "---" for is_number in headings.values()) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def read_groups(path: Path) -> dict[str, Group]:
    """The groups of earlier runs, by name; none if there is no such file."""
    if not path.exists():
        return {}
    kept = json.loads(path.read_text())
    groups = {}
    for name, entry in kept.items():
        figures = [Figure(**figure) for figure in entry.pop("figures")]
        texts = {key: tuple(entry.pop(key, ())) for key in ("facts", "missing")}
        groups[name] = Group(name=name, figures=figures, **texts, **entry)
    return groups


def write_groups(path: Path, groups: Iterable[Group]) -> None:
    """For a later run that measures only some of them again."""
    entries = {group.name: asdict(group) for group in groups}
    for entry in entries.values():
        del entry["name"]
    path.write_text(json.dumps(entries, indent=1) + "\n")


def machine_facts(peer_versions: dict[str, str]) -> list[str]:
    """The machine and the versions, a line each."""
    memory = psutil.virtual_memory().total / 2**30
    versions = {name: found for name in PACKAGES if (found := _version(name))} | peer_versions
    where = (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} "
        f"{platform.release()}"
    )
    packages = ", ".join(f"{name} {found}" for name, found in versions.items())
    return [where, f"Python {platform.python_version()}, {packages}"]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """The name that Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
