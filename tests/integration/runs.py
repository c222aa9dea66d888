"""Small runs, as commands in processes of their own, and ways to look at them from outside."""

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from common.config import Config, write_toml
from common.security import NOTHING_TOLD, Security
from deploy.status_client import StatusClient
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
"""How long anything may take before a test gives up; a loaded machine is slow to import torch."""
LOOK_PERIOD_S = 0.02
"""A look at all processes of the machine takes milliseconds that those waited for need."""
MARK = "ZAPEX_TEST_COMMAND"
"""Environment variable by which the processes that a command started are found again."""

TINY: dict[str, Any] = {
    "env": "CartPole-v1",
    "device": "cpu",
    "total_env_steps": 2_000,
    "envs_per_actor": 4,
    "block_length": 8,
    "hidden_sizes": (16,),
    "batch_size": 32,
    "min_size_to_sample": 100,
    "replay_capacity": 5_000,
    "samples_per_insert": 8.0,
    "eval_period": 50,
    "eval_episodes": 2,
    "publish_period": 5,
    "checkpoint_period": 50,
}
"""A run of a few seconds that learns nothing much: 8 samples for each insert and 32 for an update
make an update for 4 environment steps. On the CPU: CUDA in a process of tests settles for all that
come later whether matrices are multiplied deterministically."""
ENDLESS = 10**9
"""A budget of environment steps that no test spends."""

PACED: dict[str, Any] = {
    "env": "tests.integration.environments:Paced-v0",
    "env_kwargs": {"delay_s": 0.01},
}
"""An endless run of these leaves the processors to what a test starts beside it."""

T = TypeVar("T")
Status = dict[str, Any]
"""`learner.status.RunStatus` as plain data."""


def until(condition: Callable[[], T | None], what: str) -> T:
    """`wait_until` with the patience that whole processes need."""
    found = wait_until(condition, what, limit_s=WAIT_S, period_s=LOOK_PERIOD_S)
    assert found is not None
    return found


@contextlib.contextmanager
def own_logging() -> Iterator[None]:
    """Give the root logger back as it was: a program configures it for its whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers = handlers
        root.setLevel(level)
        logging.captureWarnings(False)


def write_preset(path: Path, **changes: Any) -> str:
    """A TOML file of TINY with some values changed; its name for the command line."""
    write_toml(Config(**{**TINY, **changes}), path)
    return str(path)


class Command:
    """`python -m MODULE …` as the leader of a process group of its own.

    Args:
        within: a command that becomes this one, such as `ip netns exec NAME`.
    """

    def __init__(self, directory: Path, *words: str, within: Sequence[str] = ()) -> None:
        self._mark = uuid.uuid4().hex
        self._output_file = directory / f"output-{self._mark}.txt"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), MARK: self._mark}
        with self._output_file.open("wb") as output:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", *words],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        """What it and its children printed so far."""
        return self._output_file.read_text()

    def line(self, text: str) -> str:
        """Wait for a line with that text, and return it."""

        def found() -> str | None:
            ended = self.process.poll() is not None
            lines = [line for line in self.output().splitlines() if text in line]
            if ended and not lines:
                raise AssertionError(f"ended without saying {text!r}:\n{self.output()}")
            return lines[0] if lines else None

        return until(found, f"{text!r} in the output")

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        until(lambda: self.process.poll() is not None, f"the end of {self.process.args!r}")
        return self.process.returncode

    def signal_group(self, number: signal.Signals) -> None:
        """As a terminal does: to every process of the group."""
        os.killpg(self.process.pid, number)

    def family(self) -> list[psutil.Process]:
        """This process and all that came from it and still run, whoever their parent is now."""
        family = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark:
                    family.append(process)
        return family

    def nothing_left(self) -> bool:
        """Wait until all its processes have ended, without help."""
        return until(lambda: not self.family(), "the end of all processes")

    def kill_family(self) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()


def head_of(launch: Command) -> str:
    """The address where a launched run can be joined."""
    return launch.line("head at tcp://").split()[2]


def status(
    head: str,
    that: Callable[[Status], bool] = lambda _: True,
    security: Security = NOTHING_TOLD,
) -> Status:
    """How the run of that head goes, as it tells anyone who asks (and has a key where one is
    wanted), once it is so."""
    with contextlib.closing(StatusClient(head, security=security)) as client:

        def answer() -> Status | None:
            latest = client.latest()
            return latest if latest is not None and that(latest) else None

        return until(answer, f"the status that is waited for, from {head}")


def updates_beyond(number: int) -> Callable[[Status], bool]:
    """A condition for `status`: the learner has made more updates than that."""
    return lambda now: bool(now["learner"]["updates"] > number)


def pid_of(run_dir: Path, name: str) -> int:
    """Of the newest process of a role, from its log."""
    return int(re.findall(r"pid (\d+)$", log_of(run_dir, name), re.MULTILINE)[-1])


def log_of(run_dir: Path, name: str) -> str:
    return (run_dir / "logs" / f"{name}.log").read_text()


def result_of(run_dir: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run_dir / "result.json").read_text())
    return result


def checkpoints_of(run_dir: Path) -> list[int]:
    """Learner updates of the numbered checkpoints, oldest first."""
    names = (path.stem for path in (run_dir / "checkpoints").glob("*.safetensors"))
    return sorted(int(name) for name in names if name.isdigit())


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports that nobody uses. Workers that run tests side by side
    look in different places: between this and the use of a port another one could take it."""
    for first in range(20_000 + os.getpid() * 37 % 8_000, 32_000, count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise OSError(f"no {count} free ports in a row")
