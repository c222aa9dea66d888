"""One soak, from the launch to its figures."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.soak.audit import Audit, Findings
from tests.soak.kills import Killer, RunEnded, Toll, schedule
from tests.soak.report import Row, rows_of
from tests.soak.resources import Watch
from tests.soak.run import EVERYTHING, LAUNCHER, LIMIT_S, SoakRun, role_of
from tests.soak.scores import forgetting, scores_of
from tests.waiting import wait_until

ROLES = ("learner", "replay_server", "actor", "evaluator", "inference", LAUNCHER, EVERYTHING)


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is soaked."""

    minutes: float
    kill: Sequence[str]
    """Roles, or names as actor-0; none: it is only watched."""
    seed: int = 0
    every_s: float = 5.0
    """From one kill to the next, on average; longer where the run takes longer to get over one."""
    preset: str = "cartpole"
    actors: int = 2
    capacity: int = 8_000_000
    """Transitions; more than are inserted between two looks, so that none is overwritten unseen."""
    most_kills: int = 1 << 30
    solve: bool = False
    """The preset's target is in force, and the run must reach it."""
    words: Sequence[str] = ()
    """Further options of the launch."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    rows: list[Row]
    findings: Findings
    toll: Toll
    solved: bool
    failure: str
    """Why it ended early; empty: it did not."""


def soak(options: Options, directory: Path) -> Result:
    """Launch a run in `directory`, kill it as told, end it."""
    rng = random.Random(options.seed)
    names = ["learner", "replay_server", "evaluator"]
    names += [f"actor-{i}" for i in range(options.actors)]
    if "--inference" in options.words:
        names.append("inference")
    run = SoakRun(directory, _launch_words(options), names)
    audit = Audit(run.ledger, run.storage)
    killer = Killer(run, audit, rng)
    since_s = time.monotonic()
    failure = ""
    try:
        with Watch(run) as watch:
            try:
                _strike_on(options, run, killer, audit, _victims(options, names), rng)
            except (TimeoutError, AssertionError, ValueError) as error:
                failure = str(error)
            except RunEnded:
                pass
        code = run.ended()
        solved = code == 0
        if not failure and (solved != options.solve or code not in (None, 0)):
            failure = f"the run ended with exit code {code}:\n{run.output()}"
    finally:
        run.stop()
    findings = audit.look()
    scores = scores_of(run.run_dir / "metrics.jsonl")
    rows = rows_of(
        findings,
        killer.toll,
        forgetting(scores, killer.toll.learner_times_s),
        watch.halves(),
        (time.monotonic() - since_s) / 60,
    )
    return Result(rows, findings, killer.toll, solved, failure)


def _launch_words(options: Options) -> list[str]:
    words = ["--preset", options.preset, "--seed", str(options.seed)]
    words += ["--actors", str(options.actors), "--replay-capacity", str(options.capacity)]
    words += ["--replay-storage", "file"]
    if not options.solve:
        words += ["--target-return", "none", "--total-env-steps", str(10**9)]
    return [*words, *options.words]


def _victims(options: Options, names: Sequence[str]) -> list[str]:
    everybody = [*names, LAUNCHER, EVERYTHING]
    return [n for n in everybody if n in options.kill or role_of(n) in options.kill]


def _strike_on(
    options: Options,
    run: SoakRun,
    killer: Killer,
    audit: Audit,
    victims: list[str],
    rng: random.Random,
) -> None:
    """Raises RunEnded when the run has ended by itself."""
    deadline_s = time.monotonic() + 60 * options.minutes
    wait_until(lambda: run.back("learner") or run.ended() is not None, "it trains", LIMIT_S)

    def pause(pause_s: float) -> None:
        until_s = min(time.monotonic() + pause_s, deadline_s)
        while time.monotonic() < until_s:
            if run.ended() is not None:
                raise RunEnded
            time.sleep(min(0.05, max(until_s - time.monotonic(), 0.0)))

    for victim in schedule(victims, rng) if victims else ():
        began_s = time.monotonic()
        pause(rng.uniform(0.0, options.every_s))
        if time.monotonic() >= deadline_s or sum(killer.toll.kills.values()) >= options.most_kills:
            break
        killer.strike(victim, pause)
        pause(options.every_s - (time.monotonic() - began_s))
    if options.solve or not victims:
        while (left_s := deadline_s - time.monotonic()) > 0.0:
            pause(min(left_s, options.every_s))
            audit.look()
