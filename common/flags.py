"""Command lines whose flags are a program's own options and every field of the configuration.

Parsing and help are tyro's; values are judged by `common.config`, so that a flag, a preset and a
manifest are refused in the same words.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import tyro

from common.config import Config, config_from_mapping

Options = TypeVar("Options")


def parse(
    options: type[Options], argv: Sequence[str], *, prog: str, base: Config
) -> tuple[Options, Config]:
    """The program's options and the configuration that `base` and the flags make.

    Args:
        options: a dataclass; its fields become flags with their docstrings as help.
        base: shown as the defaults.

    Raises:
        ConfigError: a flag's value is impossible.
        SystemExit: with 0 after --help, with 2 when the command line cannot be parsed.
    """
    flags = dataclasses.make_dataclass(
        f"{options.__name__}Flags",
        [(name, hint, field) for name, hint, field in _config_flags(base)],
        bases=(options,),
        kw_only=True,
    )
    flags.__doc__ = options.__doc__
    # TOML and this project write none, Python and tyro None.
    words = [re.sub(r"(?i)^(--[a-z-]+=)?none$", r"\1None", word) for word in argv]
    parsed: Any = tyro.cli(flags, args=words, prog=prog)
    values = {name: getattr(parsed, name) for name in Config.model_fields}
    own = {f.name: getattr(parsed, f.name) for f in dataclasses.fields(options)}  # type: ignore[arg-type]
    return options(**own), config_from_mapping(values, "command line")


def with_dashes(argv: Sequence[str]) -> list[str]:
    """The same with --run-dir for --run_dir, which tyro takes as well: for whoever looks for
    options before they are parsed."""
    return [re.sub("^--[^=]+", lambda name: name[0].replace("_", "-"), word) for word in argv]


def peek(argv: Sequence[str], flag: str) -> str | None:
    """The value of a flag that must be known before the command line can be parsed."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return None


def _config_flags(base: Config) -> list[tuple[str, Any, Any]]:
    flags = []
    for name, info in Config.model_fields.items():
        value = getattr(base, name)
        type_: Any = JsonObject if info.annotation == dict[str, Any] else info.annotation
        hint = Annotated[type_, tyro.conf.arg(help=info.description)]
        flags.append(
            (name, hint, dataclasses.field(default_factory=functools.partial(_same, value)))
        )
    return flags


def _same(value: Any) -> Any:
    return value


def _json_object(words: list[str]) -> dict[str, Any]:
    value = json.loads(words[0])
    if not isinstance(value, dict):
        raise ValueError('expected a JSON object such as {"gravity": -9.8}')
    return value


JsonObject = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=_json_object,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    ),
]
"""The type of an option that is written as a JSON object."""
