"""What differs between two runs' configurations."""

from dataclasses import dataclass
from typing import Any

from common.config import Config

ABSENT = "–"


@dataclass(frozen=True, slots=True)
class Setting:
    """A row: a field of the configuration."""

    name: str
    value: str
    other: str
    """The second run's; `ABSENT`: its version did not know the field."""
    differs: bool


def settings(first: dict[str, Any], second: dict[str, Any] | None = None) -> list[Setting]:
    """All fields that either run has, in the order of `common.config`; those that it does not know
    come last.

    Args:
        first, second: config.toml as it was read.
    """
    names = dict.fromkeys([*Config.model_fields, *first, *(second or {})])
    return [
        _setting(name, first, second)
        for name in names
        if name in first or (second is not None and name in second)
    ]


def _setting(name: str, first: dict[str, Any], second: dict[str, Any] | None) -> Setting:
    value = shown(first[name]) if name in first else ABSENT
    if second is None:
        return Setting(name, value, "", False)
    other = shown(second[name]) if name in second else ABSENT
    return Setting(name, value, other, first.get(name) != second.get(name))


def shown(value: Any) -> str:
    """Nearly as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return " × ".join(map(shown, value)) or "[]"
    return str(value)
