"""Environment ids: which package makes one known to Gymnasium, and what is near a mistyped one."""

import difflib
import importlib
import importlib.util
from collections.abc import Callable
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


def nearest(env_id: str) -> str | None:
    """The known id that looks most like this one, among all installed families; None: none does."""
    for family in _FAMILIES:
        if family.installed:
            family.register()
    # ale_py also registers each game under eight old names, which are of no use here.
    known = [
        known_id
        for known_id, spec in gym.registry.items()
        if known_id.startswith("ALE/") or spec.entry_point != "ale_py.env:AtariEnv"
    ]
    # Pong-v5 is nearer to ALE/Pong-v5 than the prefix makes it look.
    names = {known_id.lower().rpartition("/")[2]: known_id for known_id in known}
    names |= {known_id.lower(): known_id for known_id in known}
    near = difflib.get_close_matches(env_id.lower(), names, n=1)
    return names[near[0]] if near else None
