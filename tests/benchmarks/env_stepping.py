"""Environment steps per second of one core, beside what the games alone would allow.

All are measured in one process, one after the other and round after round, so that a slow minute of
the machine is everybody's. The clock is the process's CPU time: other processes on the same cores
hardly matter, and threads cannot make one core look like two. Actions are random; an Atari step is
four emulator frames.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.vector import VectorEnv

from common.config import Config
from common.environments import make_vector
from common.minatar import GAMES, game_module
from tests.benchmarks.report import Figure, report

STICKY_ACTION_PROB = 0.1
"""MinAtar's."""
ATARI = {
    "env": "ALE/Pong-v5",
    "resize": (84, 84),
    "greyscale": True,
    "env_kwargs": {"repeat_action_probability": 0.25},
}

Stepper = Callable[[], int]
"""Plays some steps and returns how many environment steps they were."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What one figure is about."""

    name: str
    own: Callable[[], Stepper]
    """zapex's way."""
    bare: Callable[[], Stepper] | None
    """The games themselves, in a plain loop: no vector, no preprocessing."""
    others: dict[str, Callable[[], Stepper]]
    """Other ways to the same steps."""


def run(
    rounds: int = 5,
    window_s: float = 0.5,
    peers: bool = True,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Environment steps per second of one core.

    Args:
        rounds: Windows for each figure, which is their median.
        window_s: CPU seconds of a window.
        peers: Measure other ways to step the same environments beside ours.
        as_json: Print one line of JSON for each figure.
    """
    report(figures(rounds, window_s, peers), as_json=as_json)


def figures(rounds: int, window_s: float, peers: bool) -> list[Figure]:
    """Every subject's own way beside the others; subjects that are not installed are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subjects = [*_cartpole(), *_minatar(), *_atari()]
        return [f for subject in subjects for f in _figures(subject, rounds, window_s, peers)]


def _figures(subject: Subject, rounds: int, window_s: float, peers: bool) -> Iterator[Figure]:
    makers = {"": subject.own, **(subject.others if peers else {})}
    if subject.bare is not None:
        makers["bare"] = subject.bare
    steppers = {name: make() for name, make in makers.items()}
    windows: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(rounds):
        for name, step in steppers.items():
            windows[name].append(_rate(step, window_s))
    rates = {name: statistics.median(rates) for name, rates in windows.items()}
    own, bare = rates.pop(""), rates.pop("bare", None)
    best = max(rates, key=lambda name: rates[name], default=None)
    name, unit = f"env_stepping.{subject.name}", "env steps/s"
    limit_name = None if bare is None else "the games alone"
    yield Figure(name, own, unit, bare, None if best is None else rates[best], best, limit_name)
    for other, rate in rates.items():
        yield Figure(f"{name}[{other}]", rate, unit, bare, limit_name=limit_name)


def _rate(step: Stepper, window_s: float) -> float:
    """Environment steps per CPU second."""
    steps, began_s = 0, time.process_time()
    while (elapsed_s := time.process_time() - began_s) < window_s:
        steps += step()
    return steps / elapsed_s


def _cartpole() -> Iterator[Subject]:
    bare = gym.make("CartPole-v1").unwrapped
    for vectorization in ("sync", "vector_entry_point"):
        yield Subject(
            f"cartpole.{vectorization}_x16",
            _vector({"env": "CartPole-v1", "vectorization": vectorization}, 16),
            (lambda: _alone(bare)) if vectorization == "sync" else None,
            {
                "unwatched": lambda mode=vectorization: _stepper(
                    gym.make_vec("CartPole-v1", 16, mode), 16
                ),
                **(
                    {"envpool": _vector({"env": "CartPole-v1", "vectorization": "envpool"}, 16)}
                    if find_spec("envpool")
                    else {}
                ),
            },
        )


def _minatar() -> Iterator[Subject]:
    if find_spec("minatar") is None:
        print("skipped: minatar is not installed: pip install -e '.[minatar]'", file=sys.stderr)
        return
    for game in GAMES:
        env = {"env": f"MinAtar/{game.title().replace('_', '')}-v1"}
        yield Subject(
            f"minatar.{game}_x16",
            _vector(env | {"vectorization": "vector_entry_point"}, 16),
            lambda game=game: _game(game),
            {"Gymnasium sync": _vector(env | {"vectorization": "sync"}, 16)},
        )


def _atari() -> Iterator[Subject]:
    if find_spec("ale_py") is None:
        print("skipped: ale-py is not installed: pip install -e '.[atari]'", file=sys.stderr)
        return
    others = {"Gymnasium sync": _vector(ATARI | {"vectorization": "sync"}, 32)}
    if find_spec("envpool"):
        others["envpool"] = _vector(ATARI | {"vectorization": "envpool"}, 32)
    yield Subject(
        "atari.pong_x32",
        _vector(ATARI | {"vectorization": "vector_entry_point"}, 32),
        _emulator,
        others,
    )


def _vector(values: dict[str, Any], num_envs: int) -> Callable[[], Stepper]:
    """zapex's vector environment, from configuration values."""
    return lambda: _stepper(make_vector(Config(**values), num_envs), num_envs)


def _stepper(vector: VectorEnv[Any, Any, Any], num_envs: int) -> Stepper:
    vector.reset(seed=0)
    actions = _actions(vector.single_action_space, (1_000, num_envs))
    turn = _endless(actions)
    batch = max(1, 64 // num_envs)

    def step() -> int:
        for action in islice(turn, batch):
            vector.step(action)
        return batch * num_envs

    return step


def _alone(env: gym.Env[Any, Any]) -> Stepper:
    """One environment without wrappers."""
    env.reset(seed=0)
    turn = _endless(_actions(env.action_space, (1_000,)).tolist())

    def step() -> int:
        for action in islice(turn, 64):
            _, _, terminated, _, _ = env.step(action)
            if terminated:
                env.reset()
        return 64

    return step


def _game(name: str) -> Stepper:
    """One game of MinAtar as the package has it, with sticky actions and observations."""
    game = game_module(name).Env(ramping=True)
    draw = np.random.RandomState(0).rand
    actions = np.random.default_rng(0).choice(game.minimal_action_set(), 1_000)
    turn = _endless(actions.tolist())

    def step() -> int:
        last = 0
        for action in islice(turn, 64):
            if draw() >= STICKY_ACTION_PROB:
                last = action
            _, over = game.act(last)
            if over:
                game.reset()
            game.state()
        return 64

    return step


def _emulator() -> Stepper:
    """The emulator, four frames a step, without ever looking at a screen."""
    import ale_py
    from ale_py import roms

    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.25)
    ale.setInt("random_seed", 0)
    ale.loadROM(roms.get_rom_path("pong"))
    minimal = ale.getMinimalActionSet()
    turn = _endless([minimal[i] for i in np.random.default_rng(0).integers(6, size=1_000)])

    def step() -> int:
        for action in islice(turn, 16):
            for _ in range(4):
                ale.act(action)
            if ale.game_over():
                ale.reset_game()
        return 16

    return step


def _actions(space: gym.Space[Any], shape: tuple[int, ...]) -> Any:
    assert isinstance(space, gym.spaces.Discrete)
    return np.random.default_rng(0).integers(space.n, size=shape)


def _endless(actions: Any) -> Iterator[Any]:
    while True:
        yield from actions
