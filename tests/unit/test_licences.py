"""docs/licences.md against pyproject.toml and against what is installed."""

from importlib import metadata

import pytest

from tests.licences import COPYLEFT, NOTES, PAGE, is_copyleft, licence, requirements, rows

LISTED = rows(PAGE.read_text())


def test_every_dependency_is_listed_with_a_licence() -> None:
    assert [name for name in requirements() if not LISTED.get(name)] == []


@pytest.mark.parametrize("name", sorted(requirements()))
def test_what_is_listed_is_what_the_installed_package_says(name: str) -> None:
    try:
        installed = licence(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    assert is_copyleft(installed) == is_copyleft(LISTED[name])


def test_copyleft_is_never_without_a_note() -> None:
    bound = [name for name, said in LISTED.items() if is_copyleft(said)]
    assert {"ale-py", "minatar"} <= set(bound)
    assert [name for name in bound if name not in NOTES] == []


def test_zapex_itself_needs_no_copyleft() -> None:
    own = [name for name, extras in requirements().items() if "" in extras]
    assert [name for name in own if is_copyleft(LISTED[name])] == []


@pytest.mark.parametrize(
    ("said", "bound"),
    [("MIT", False), ("GPL-3.0-or-later", True), ("BSD License", False), ("MPL-2.0", True)],
)
def test_copyleft_is_known_by_its_words(said: str, bound: bool) -> None:
    assert is_copyleft(said) == bound
    assert COPYLEFT
