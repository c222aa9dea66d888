"""The run under test: launched, killed process by process, and watched from outside.

What it does is read from its log files alone: a role's newest process, and when a line was said.
"""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import psutil

from tests.integration.runs import Command, pid_of
from tests.waiting import wait_until

LIMIT_S = 120.0
"""How long anything may take before the soak gives up."""
LAUNCHER, EVERYTHING = "launcher", "everything"
BACK = {
    "learner": "training began",
    "replay_server": "restored transitions",
    "actor": "joined the run",
    "evaluator": "joined the run",
    "inference": "joined the run",
}
"""What a role's log says as soon as it does its work again."""
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ")


def role_of(name: str) -> str:
    """actor-1 is an actor."""
    return name.partition("-")[0]


class SoakRun:
    """A launched run in `directory/run`.

    Args:
        words: options of `python -m deploy launch`.
        names: its processes but for the launcher.
    """

    def __init__(self, directory: Path, words: list[str], names: list[str]) -> None:
        self._directory, self._words, self.names = directory, words, names
        self.run_dir = directory / "run"
        self.storage = self.run_dir / "replay" / "storage"
        self.ledger = directory / "ledger"
        self._offsets: dict[str, int] = {}
        self._commands = [self._launch(*words, "--run-dir", str(self.run_dir))]

    @property
    def command(self) -> Command:
        return self._commands[-1]

    def kill(self, name: str) -> float:
        """SIGKILL, and wait until it is gone; when, as time.time(). A launcher that is killed is
        followed at once by one that resumes its run."""
        if name == EVERYTHING:
            self._mark_logs()
            when_s = time.time()
            self.command.kill_family()
        elif name == LAUNCHER:
            self._mark_logs()
            when_s = time.time()
            self.command.process.kill()
            self.command.process.wait()
        else:
            pid = pid_of(self.run_dir, name)
            when_s = time.time()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not _is_alive(pid), f"{name} is gone", LIMIT_S)
            self._mark_log(name)
        if name in (EVERYTHING, LAUNCHER):
            self._commands.append(self._launch("--resume", str(self.run_dir)))
        return when_s

    def back(self, name: str) -> float | None:
        """When a killed process was at work again, as time.time(); None: not yet."""
        if name in (EVERYTHING, LAUNCHER):
            times_s = [self.back(each) for each in self.names]
            found = [t for t in times_s if t is not None]
            return self.back("learner") if len(found) == len(times_s) else None
        for line in self._said(name):
            if BACK[role_of(name)] in line:
                return _time_of(line)
        return None

    def ended(self) -> int | None:
        """The launcher's exit code, if it has ended by itself."""
        return self.command.process.poll()

    def orphans(self) -> list[str]:
        """Processes of launchers that were killed."""
        left = [p for command in self._commands[:-1] for p in command.family()]
        return [" ".join(p.cmdline()) for p in left]

    def processes(self) -> dict[str, psutil.Process]:
        """Those that are alive, by name."""
        found: dict[str, psutil.Process] = {}
        with contextlib.suppress(psutil.Error):
            found[LAUNCHER] = psutil.Process(self.command.process.pid)
        for name in self.names:
            with contextlib.suppress(psutil.Error, OSError, IndexError):
                found[name] = psutil.Process(pid_of(self.run_dir, name))
        return found

    def stop(self) -> None:
        """End everything that is left."""
        for command in self._commands:
            command.kill_family()

    def output(self) -> str:
        """Of the launchers, the last one's last."""
        return "".join(command.output() for command in self._commands)

    def _launch(self, *words: str) -> Command:
        return Command(self._directory, "tests.soak.launched", *words)

    def _log(self, name: str) -> Path:
        return self.run_dir / "logs" / f"{name}.log"

    def _mark_log(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self._offsets[name] = self._log(name).stat().st_size

    def _mark_logs(self) -> None:
        for name in self.names:
            self._mark_log(name)

    def _said(self, name: str) -> list[str]:
        """Lines since the process before was killed."""
        try:
            with self._log(name).open("rb") as file:
                file.seek(self._offsets.get(name, 0))
                return file.read().decode(errors="replace").splitlines()
        except OSError:
            return []


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _time_of(line: str) -> float:
    found = _STAMP.match(line)
    assert found is not None, line
    return time.mktime(time.strptime(found[1], "%Y-%m-%d %H:%M:%S")) + int(found[2]) / 1000
