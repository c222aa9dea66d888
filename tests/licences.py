"""`python -m tests.licences > docs/licences.md`: what zapex's dependencies are licensed under.

Read from the metadata of the installed packages: those that `pyproject.toml` names, and by name
alone those that they bring along.
"""

import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
NOT_SHIPPED = ("audit", "browser", "peers", "test")
"""Extras that nothing of zapex imports when it runs."""
COPYLEFT = ("GPL", "GNU", "MPL", "Mozilla", "EPL", "CDDL", "EUPL")
"""Words by which a licence may ask for more than a notice."""
_FILES = "Its own files alone; used unchanged."
NOTES = {
    "ale-py": "GPL 2: an optional environment, loaded beside zapex and never part of it. Whoever "
    "passes on both together, as in a container image, passes on the whole under its terms.",
    "bidict": _FILES,
    "certifi": _FILES,
    "docutils": "The GPL is that of one file, which is not imported.",
    "hypothesis": "Tests alone.",
    "imageio-ffmpeg": "Its wheel brings an ffmpeg program under the GPL, which is run, not linked.",
    "minatar": "GPL 3: as ale-py.",
    "opencv-python-headless": "Its wheel brings FFmpeg's libraries under the LGPL 2.1, unchanged.",
    "orjson": _FILES,
    "pygame-ce": "LGPL 2.1: used unchanged.",
    "tqdm": _FILES,
}
"""What copyleft means for the packages that have it."""
UNSAID = {"cpprb": "MIT", "stable-baselines3": "MIT", "tianshou": "MIT"}
"""Licences of packages that are mostly not installed where this is run."""


def requirements() -> dict[str, set[str]]:
    """Names of the packages that pyproject.toml asks for → by which extras ("" is zapex itself)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, set[str]] = {}
    for extra, lines in groups.items():
        for line in lines:
            found.setdefault(canonicalize_name(Requirement(line).name), set()).add(extra)
    return found


def licence(name: str) -> str:
    """Of an installed package. Raises PackageNotFoundError."""
    about = metadata.metadata(name)
    if about["License-Expression"]:
        return str(about["License-Expression"])
    said = [c for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
    named = [c.rpartition(" :: ")[2] for c in said if c != "License :: OSI Approved"]
    text = (about["License"] or "").strip().splitlines()
    if named:
        return ", ".join(named)
    if text and len(text[0]) < 60:
        return text[0]
    return ""


def is_copyleft(said: str) -> bool:
    return any(word in said for word in COPYLEFT)


def brought_along(names: Iterator[str]) -> dict[str, str]:
    """Packages that these need, and those again → their licences; installed ones alone."""
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        try:
            lines = metadata.requires(waiting.pop()) or []
        except metadata.PackageNotFoundError:
            continue
        for line in lines:
            needed = Requirement(line)
            name = canonicalize_name(needed.name)
            wanted = needed.marker is None or needed.marker.evaluate(
                {**default_environment(), "extra": ""}  # type: ignore[dict-item]
            )
            if name in found or not wanted:
                continue
            try:
                found[name] = licence(name)
            except metadata.PackageNotFoundError:
                continue
            waiting.append(name)
    return found


def page() -> str:
    """docs/licences.md. A package that is not installed keeps the line that it had."""
    lines = [
        "# Licences",
        "",
        "zapex is under the Apache License 2.0. What it needs is under these, as the packages'",
        "metadata say; made by `python -m tests.licences > docs/licences.md`.",
        "",
        "| package | needed by | licence | note |",
        "|---|---|---|---|",
    ]
    old = rows(PAGE.read_text()) if PAGE.exists() else {}
    wanted = requirements()
    for name, extras in sorted(wanted.items()):
        by = ", ".join("zapex" if not extra else f"extra `{extra}`" for extra in sorted(extras))
        try:
            said = licence(name)
        except metadata.PackageNotFoundError:
            said = UNSAID.get(name) or old.get(name, "not installed where this page was made")
        lines.append(f"| {name} | {by} | {said} | {NOTES.get(name, '')} |")
    shipped = (n for n, extras in wanted.items() if not extras <= set(NOT_SHIPPED))
    others = {n: s for n, s in brought_along(shipped).items() if n not in wanted}
    lines += [
        "",
        "## What those bring along",
        "",
        "As installed where this page was made, without what only tests and comparisons need.",
        "NVIDIA's libraries come with the CUDA builds of PyTorch, under licences of their own.",
        "",
        "| package | licence | note |",
        "|---|---|---|",
        *(
            f"| {name} | {said or 'see its files'} | {NOTES.get(name, '')} |"
            for name, said in sorted(others.items())
        ),
    ]
    return "\n".join(lines) + "\n"


def rows(text: str) -> dict[str, str]:
    """The page's licences by package."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "package":
            found[cells[0]] = cells[-2]
    return found


if __name__ == "__main__":
    print(page(), end="")
