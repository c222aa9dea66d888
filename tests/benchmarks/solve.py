"""Seconds from the start of a process to a greedy score, over several seeds, against SB3's DQN.

Both sides are one command, timed from outside, start to exit; on the same machine, one after the
other, seed by seed. Ours stops when its evaluator's mean reaches the preset's target, SB3's when
its own evaluation of 20 greedy episodes does. Ours is then scored again on fresh episodes.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.peers import Peers
from tests.benchmarks.report import Figure, report

EVALUATION_SEED = 12345
SB3 = "SB3 DQN"


@dataclass(frozen=True, slots=True)
class Solved:
    """One seed of one preset."""

    preset: str
    seed: int
    wall_s: float
    """Our process, start to exit."""
    result: dict[str, Any]
    """What it wrote to result.json."""
    evaluation: dict[str, Any]
    """What `deploy evaluate` printed."""
    peer_wall_s: float | None
    peer: dict[str, Any] | None
    """What the peer printed; None where it was not run."""

    def figures(self) -> list[Figure]:
        """The quantities of this seed."""
        where = f"solve.{self.preset}.seed_{self.seed}"
        peer = self.peer or {}
        name = SB3 if self.peer else None
        return [
            Figure(f"{where}.wall", self.wall_s, "s", None, self.peer_wall_s, name),
            Figure(
                f"{where}.solved",
                float(self.result["solved"]),
                "1",
                peer=None if self.peer is None else float(peer["solved"]),
                peer_name=name,
            ),
            Figure(
                f"{where}.env_steps",
                self.result["env_steps"],
                "env steps",
                peer=peer.get("env_steps"),
                peer_name=name,
            ),
            Figure(f"{where}.learner_updates", self.result["learner_updates"], "updates"),
            Figure(f"{where}.return_mean", self.evaluation["return_mean"], "return"),
        ]


def run(
    presets: tuple[str, ...] = ("cartpole",),
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    episodes: int = 100,
    peers: bool = True,
    peer_python: tuple[str, ...] = (sys.executable,),
    json: bool = False,
) -> None:
    """Seconds from process start to a greedy score.

    Args:
        presets: Presets of `python -m deploy launch`, one after the other.
        seeds: Seeds of each.
        episodes: Fresh greedy episodes with which each result is scored again.
        peers: Run SB3's DQN on the same seeds, in turn with ours.
        peer_python: The Pythons in which stable-baselines3 may be installed.
        json: Print one line of JSON for each figure.
    """
    installed = Peers(peer_python if peers else ())
    figures: list[Figure] = []
    for preset in presets:
        solved: list[Solved] = []
        for seed in seeds:
            solved.append(_solve(preset, seed, episodes, installed))
            print(_line(solved[-1]), file=sys.stderr)
            figures += solved[-1].figures()
        figures += summary(preset, solved)
    report(figures, as_json=json)


def summary(preset: str, solved: Sequence[Solved]) -> list[Figure]:
    """Medians over the seeds; an unsolved seed counts with the time it took to give up."""
    peers = [s.peer_wall_s for s in solved if s.peer_wall_s is not None]
    median_steps = statistics.median(s.result["env_steps"] for s in solved)
    name = SB3 if peers else None
    return [
        Figure(
            f"solve.{preset}.median_wall",
            statistics.median(s.wall_s for s in solved),
            "s",
            peer=statistics.median(peers) if peers else None,
            peer_name=name,
        ),
        Figure(
            f"solve.{preset}.solved_seeds",
            sum(bool(s.result["solved"]) for s in solved),
            f"of {len(solved)}",
            peer=sum(bool(s.peer["solved"]) for s in solved if s.peer) if peers else None,
            peer_name=name,
        ),
        Figure(f"solve.{preset}.median_env_steps", median_steps, "env steps"),
        Figure(
            f"solve.{preset}.worst_return_mean",
            min(s.evaluation["return_mean"] for s in solved),
            "return",
        ),
    ]


def _solve(preset: str, seed: int, episodes: int, peers: Peers) -> Solved:
    with TemporaryDirectory(prefix="zapex-solve-") as directory:
        run_dir = Path(directory) / "run"
        launch = ["launch", "--preset", preset, "--seed", str(seed), "--run-dir", str(run_dir)]
        start = time.perf_counter()
        # Exit status 1: the budget ended before the target was reached, which is a result, too.
        _deploy(launch, allowed=(0, 1))
        wall_s = time.perf_counter() - start
        result = json.loads((run_dir / "result.json").read_text())
        evaluate = ["evaluate", str(run_dir), "--episodes", str(episodes)]
        evaluation = json.loads(
            _deploy([*evaluate, "--seed", str(EVALUATION_SEED), "--json"]).splitlines()[-1]
        )
    peer_wall_s, peer = None, None
    options = ["--env", result["env"], "--target", str(result["target"]), "--seed", str(seed)]
    start = time.perf_counter()
    printed = peers.run("sb3_dqn", options)
    if printed is not None:
        peer_wall_s, peer = time.perf_counter() - start, printed[-1]
    return Solved(preset, seed, wall_s, result, evaluation, peer_wall_s, peer)


def _deploy(arguments: Sequence[str], allowed: Sequence[int] = (0,)) -> str:
    """What `python -m deploy` printed."""
    command = [sys.executable, "-m", "deploy", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in allowed:
        raise RuntimeError(f"exit status {done.returncode} from: {' '.join(command)}")
    return done.stdout


def _line(s: Solved) -> str:
    """Progress, for whoever watches."""
    peer = "" if s.peer_wall_s is None else f"; {SB3} {s.peer_wall_s:.1f} s"
    return (
        f"{s.preset} seed {s.seed}: {'solved' if s.result['solved'] else 'NOT solved'} in "
        f"{s.wall_s:.1f} s, {s.evaluation['return_mean']:.1f} over "
        f"{s.evaluation['episodes']} episodes{peer}"
    )
