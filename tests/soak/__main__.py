"""`python -m tests.soak --minutes 20 --kill all --seed 1`: prints a table; exit code 1 when a
promise is broken."""

import contextlib
import platform
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.soak.report import table, write_json
from tests.soak.soak import ROLES, Options, soak


@dataclass
class Flags:
    """Kill the processes of a run at random moments and audit what it promised."""

    minutes: float = 1.0
    """Duration."""
    kill: str = "all"
    """all, none, or roles and names with commas between: learner, replay_server, actor, actor-1,
    evaluator, inference (if the run has one), launcher (followed by --resume), everything (all at
    once, followed by --resume)."""
    seed: int = 0
    """Of the kills and of the run."""
    every: float = 5.0
    """Seconds from one kill to the next, on average; without kills, from one look to the next."""
    preset: str = "cartpole"
    """Of deploy/presets, or a TOML file."""
    actors: int = 2
    """Actor processes."""
    capacity: int = 8_000_000
    """Transitions of the replay; it must hold all that is sent between two looks, and a kill and
    what it takes to get over it may lie between them."""
    kills: int = 1 << 30
    """End after so many."""
    solve: bool = False
    """The run must reach its preset's target within the time."""
    directory: Path | None = None
    """Where the run is to stay; none: it is removed at the end."""
    json: Path | None = None
    """File for the figures."""
    launch: str = ""
    """Further options of the launch, as in --launch="--inference host"."""


def main() -> int:
    flags = tyro.cli(Flags, prog="python -m tests.soak")
    kill = {"all": ROLES, "none": ()}.get(flags.kill, tuple(flags.kill.split(",")))
    options = Options(
        minutes=flags.minutes,
        kill=kill,
        seed=flags.seed,
        every_s=flags.every,
        preset=flags.preset,
        actors=flags.actors,
        capacity=flags.capacity,
        most_kills=flags.kills,
        solve=flags.solve,
        words=shlex.split(flags.launch),
    )
    with contextlib.ExitStack() as stack:
        directory = flags.directory
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        directory.mkdir(parents=True, exist_ok=True)
        result = soak(options, directory)
    print(table(result.rows))
    for line in result.findings.told:
        print(line)
    if result.failure:
        print(f"failed: {result.failure}")
    if flags.json is not None:
        write_json(
            flags.json,
            result.rows,
            machine=platform.platform(),
            seed=flags.seed,
            kill=flags.kill,
            failure=result.failure,
        )
    return int(bool(result.failure) or not all(row.holds for row in result.rows))


if __name__ == "__main__":
    sys.exit(main())
