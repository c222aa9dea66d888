"""Environments that break their promises, by Gymnasium id: `tests.faulty:Faulty-v0` does one thing
wrong, `tests.faulty:Scripted-v0` another one in each life of its process."""

import multiprocessing
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

FAULTY = "tests.faulty:Faulty-v0"


def _raise(words: str) -> None:
    raise RuntimeError(words)


DEEDS: dict[str, Callable[[], object]] = {
    "make raises": lambda: _raise("the simulator has no licence"),
    "reset raises": lambda: _raise("the simulator has no licence"),
    "step raises": lambda: _raise("the simulator fell over"),
    "close raises": lambda: _raise("the simulator is stuck"),
    "step exits": lambda: sys.exit(0),
    "step ends its process": lambda: os._exit(0),
    "step is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "step crashes": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "make sleeps": lambda: time.sleep(3_600),
    "reset sleeps": lambda: time.sleep(3_600),
    "step sleeps": lambda: time.sleep(3_600),
    "step waits": lambda: select.select([], [], []),
    # A search without end, in C, which never gives up Python's global lock.
    "step holds the lock": lambda: re.match(r"(a+)+$", 64 * "a" + "b"),
    "close sleeps": lambda: time.sleep(3_600),
}
"""What is done in a call."""
OBSERVATIONS: dict[str, Any] = {
    "observation is NaN": np.array([0.0, np.nan]),
    "observation is infinite": np.array([np.inf, 0.0]),
    "observation is too large": np.array([0.0, 1e300]),
    "observation has another shape": np.zeros(3),
    "observation is a column": np.zeros((2, 1)),
    "observation is complex": np.zeros(2, np.complex128),
    "observation is text": np.array(["a", "b"]),
    "observation is uneven": [[1.0], [1.0, 2.0]],
    "observation is missing": None,
}
REWARDS: dict[str, Any] = {
    "reward is NaN": np.nan,
    "reward is infinite": -np.inf,
    "reward is too large": 1e300,
    "reward is larger than any learner takes": 3e38,
    "reward is missing": None,
    "reward is a list": [1.0],
    "reward is an array": np.ones(1),
    "reward is text": "1.0",
}
ENDINGS: dict[str, Any] = {
    "terminated is missing": None,
    "terminated is two": 2,
    "terminated is NaN": np.nan,
    "terminated is text": "no",
}


class Faulty(gym.Env[Any, int]):
    """Does one thing wrong, which has its name in one of the tables above, or is "first observation
    is NaN", "info is missing", "values are missing" (of the five that a step returns) or "leaks"
    (8 MiB in each step, of which there are 50 in a second). Else its episodes do not end.

    Args:
        after: steps that go well.
        seeds: of the environments that do it; None: all. Those that are just made have none.
        worker: number of the process that does it where each has one of its own; None: all.
    """

    def __init__(
        self,
        fault: str = "",
        after: int = 2,
        seeds: Sequence[int] | None = None,
        worker: int | None = None,
    ) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gym.spaces.Discrete(2)
        name = multiprocessing.current_process().name
        self._fault = fault if worker is None or name.endswith(f"-{worker}") else ""
        self._after, self._seeds = after, seeds
        self._steps = 0
        self._hoard: list[bytes] = []
        self._do("make")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        if seed is not None and self._seeds is not None and seed not in self._seeds:
            self._fault = ""
        self._do("reset")
        first = np.nan if self._fault == "first observation is NaN" else 0.0
        return np.full(2, first), {}

    def step(self, action: int) -> Any:
        self._steps += 1
        if self._steps <= self._after:
            return np.zeros(2), 0.0, False, False, {}
        self._do("step")
        fault = self._fault
        if fault == "leaks":
            self._hoard.append(os.urandom(1 << 20) * 8)
            time.sleep(0.02)
        values = (
            OBSERVATIONS.get(fault, np.zeros(2)),
            REWARDS.get(fault, 0.0),
            ENDINGS.get(fault, False),
            ENDINGS.get(fault.replace("truncated", "terminated"), False)
            if fault.startswith("truncated")
            else False,
            None if fault == "info is missing" else {},
        )
        return values[:4] if fault == "values are missing" else values

    def close(self) -> None:
        self._do("close")

    def _do(self, call: str) -> None:
        if self._fault.startswith(call) and self._fault in DEEDS:
            DEEDS[self._fault]()


class Scripted(Faulty):
    """Its process's first life does what the first line of `directory/NAME.script` says, the second
    the second, and so on; when there are no more lines, or no such file, all is well.

    NAME is the role's. Of environments that have a process each, the one with number 1 does it.
    Which processes there were is in `directory/NAME.lives` and, of environments, in
    `directory/workers`, by their ids.
    """

    def __init__(self, directory: str, after: int = 2) -> None:
        process, parent = multiprocessing.current_process(), multiprocessing.parent_process()
        role, pid = process.name, os.getpid()
        if role.startswith("Worker<") and parent is not None:
            role, pid = parent.name, parent.pid or 0
            with Path(directory, "workers").open("a") as file:
                file.write(f"{os.getpid()}\n")
        script, lives = Path(directory, f"{role}.script"), Path(directory, f"{role}.lives")
        super().__init__(_line_of(pid, script, lives) if script.exists() else "", after)
        if process.name.startswith("Worker<") and not process.name.endswith("-1"):
            self._fault = ""


def _line_of(pid: int, script: Path, lives: Path) -> str:
    known = lives.read_text().split() if lives.exists() else []
    if str(pid) not in known:
        known.append(str(pid))
        lives.write_text("\n".join(known))
    lines = script.read_text().splitlines()
    life = known.index(str(pid))
    return lines[life] if life < len(lines) else ""


for _cls in (Faulty, Scripted):
    gym.register(
        f"{_cls.__name__}-v0", entry_point=f"{__name__}:{_cls.__name__}", disable_env_checker=True
    )
