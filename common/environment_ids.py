"""Environment ids: which package makes one known to Gymnasium, and what is near a mistyped one."""

import difflib
import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gymnasium as gym

from common import atari, minatar
from common.errors import EnvironmentFault


@dataclass(frozen=True, slots=True)
class _Family:
    prefixes: tuple[str, ...]
    """How its ids begin."""
    package: str
    """To import."""
    extra: str
    """Of pyproject.toml."""
    register: Callable[[], object]

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


_FAMILIES = (
    _Family(("ALE/",), "ale_py", "atari", atari.register),
    _Family(("MinAtar/",), "minatar", "minatar", minatar.register),
    _Family(
        ("MiniGrid-", "BabyAI-"),
        "minigrid",
        "minigrid",
        lambda: importlib.import_module("minigrid"),
    ),
)


_GYMS_ATARI = re.compile(
    r"(ALE/)?(?P<game>\w+?)(-ram)?((?P<kind>NoFrameskip|Deterministic)-v\d+|-v[04])", re.IGNORECASE
)
"""Ids of Atari's games in Gym: PongNoFrameskip-v4 and so on. Without a kind, it may be any id."""


def register(env_id: str) -> None:
    """Make the id known to Gymnasium when it belongs to a package that must be asked to do so.

    Raises EnvironmentFault when that package is not installed.
    """
    for family in _FAMILIES:
        if env_id.startswith(family.prefixes):
            if not family.installed:
                raise EnvironmentFault(
                    f"{env_id} needs the package {family.package}, which is not installed: "
                    f"{how_to_install(family.extra)}"
                )
            family.register()


def how_to_install(extra: str) -> str:
    """The command for one of pyproject.toml's extras."""
    return f"pip install -e '.[{extra}]' (deploy/launch.sh does it with ZAPEX_EXTRAS={extra})"


def suggestion(env_id: str) -> str:
    """A question after the known id that looks most like this one, among all installed families;
    empty: none does."""
    for family in _FAMILIES:
        if family.installed:
            family.register()
    # ale_py also registers each game under old names, which are of no use here.
    known = {
        known_id.lower(): known_id
        for known_id, spec in gym.registry.items()
        if known_id.startswith("ALE/") or spec.entry_point != "ale_py.env:AtariEnv"
    }
    gyms = _GYMS_ATARI.fullmatch(env_id)
    if gyms and (gyms["kind"] or f"ALE/{gyms['game']}-v5".lower() in known):
        return _todays_atari(gyms["game"], known)
    # Pong-v5 is nearer to ALE/Pong-v5 than the prefix makes it look.
    names = {name.rpartition("/")[2]: known_id for name, known_id in known.items()} | known
    near = _nearest(env_id, names)
    return f"Did you mean {near}?" if near else ""


def _todays_atari(game: str, known: Mapping[str, str]) -> str:
    """With what else was said by the name under which Gym had the game."""
    todays = f"ALE/{game}-v5"
    # Without ale_py there is none: who asks for today's is told how to install it.
    games = {name: known_id for name, known_id in known.items() if known_id.startswith("ALE/")}
    said = {"frameskip", "repeat_action_probability"}
    defaults = json.dumps(atari.AtariProtocol().model_dump(include=said))
    return (
        f"Did you mean {_nearest(todays, games) or todays} (--preset atari)? Its frame skip and "
        f"sticky actions are arguments, by default --env-kwargs '{defaults}'."
    )


def _nearest(name: str, names: Mapping[str, str]) -> str | None:
    """What is known by the name that looks most like this one, if any does; names in lower case."""
    near = difflib.get_close_matches(name.lower(), names, n=1)
    return names[near[0]] if near else None
