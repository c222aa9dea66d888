"""Presets: a configuration, a target and a budget for an environment, as TOML.

A preset may say `base = "atari"`: its values are laid over that one's. `pong+atari_paper` lays a
second preset over the first. A preset without an environment, such as these two bases and variants,
is no whole one: it needs `--env`, or another preset.
"""

import difflib
from pathlib import Path
from typing import Any

from common.config import Config, config_from_mapping, lay_over, read_toml
from common.errors import ConfigError

_DIRECTORY = Path(__file__).parent


def names() -> list[str]:
    """Presets that come with zapex and say all that a run needs."""
    return [name for name in _all_names() if "env" in _values(name)]


def load(preset: str, env: str | None = None) -> Config:
    """The presets of these names, joined by +, each laid over those before it.

    Args:
        preset: names of presets, or paths of TOML files of the user's own.
        env: Gymnasium id that takes the place of the presets' own.

    Raises ConfigError for an unknown name (with the nearest one), values that are refused, or when
    no environment is named.
    """
    values: dict[str, Any] = {}
    for name in [preset] if Path(preset).is_file() else preset.split("+"):
        values = lay_over(_values(name), values)
    if env is not None:
        values["env"] = env
    config = config_from_mapping(values, f"preset {preset}")
    if "env" not in values:
        raise ConfigError(f"preset {preset} names no environment: say which with --env")
    return config


def _all_names() -> list[str]:
    return sorted(path.stem for path in _DIRECTORY.glob("*.toml"))


def _values(name: str) -> dict[str, Any]:
    path = Path(name) if name.endswith(".toml") else _DIRECTORY / f"{name}.toml"
    if not path.exists():
        near = difflib.get_close_matches(name, _all_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        raise ConfigError(f"no preset {name!r}: {hint} (or give the path of a .toml file)")
    return read_toml(path, f"preset {name}", bases=_DIRECTORY)
