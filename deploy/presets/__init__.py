"""Presets: a configuration, a target and a budget for an environment, as TOML."""

import difflib
from pathlib import Path

from common.config import Config, config_from_mapping, read_toml
from common.errors import ConfigError

_DIRECTORY = Path(__file__).parent


def names() -> list[str]:
    """Presets that come with zapex."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.toml"))


def load(name: str) -> Config:
    """The preset of that name, or of a TOML file of the user's own.

    Raises ConfigError for an unknown name (with the nearest one) or values that are refused.
    """
    path = Path(name) if name.endswith(".toml") else _DIRECTORY / f"{name}.toml"
    if not path.exists():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        raise ConfigError(f"no preset {name!r}: {hint} (or give the path of a .toml file)")
    return config_from_mapping(read_toml(path, f"preset {name}"), f"preset {name}")
