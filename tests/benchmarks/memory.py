"""Does memory stay flat? Resident memory of every process of a run, while it goes on and on."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import psutil
import tyro

from tests.benchmarks.report import Figure, report

SAMPLE_PERIOD_S = 2.0


def run(
    minutes: float = 10.0,
    preset: str = "cartpole",
    settle_s: float = 60.0,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Train a preset without a target and compare each process's memory at the end with what it
    was once the replay was full.

    Args:
        minutes: how long to train.
        preset: what to train.
        settle_s: the figures compare with the memory after this much time, in seconds; the replay
            must be full by then.
        as_json: one line of JSON for each figure.
    """
    with tempfile.TemporaryDirectory() as directory:
        samples = _sample(Path(directory) / "run", preset, minutes * 60.0)
    report(_figures(samples, settle_s), as_json=as_json)


def _sample(run_dir: Path, preset: str, seconds: float) -> list[tuple[float, dict[str, int]]]:
    """Resident bytes of each role over time."""
    command = [sys.executable, "-m", "deploy", "launch", "--preset", preset]
    command += ["--run-dir", str(run_dir), "--target-return", "none"]
    command += ["--total-env-steps", str(10**12)]
    launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    began_s = time.monotonic()
    samples: list[tuple[float, dict[str, int]]] = []
    try:
        while (elapsed_s := time.monotonic() - began_s) < seconds:
            roles = _roles(run_dir)
            usage = {"launcher": psutil.Process(launcher.pid).memory_info().rss}
            for name, pid in roles.items():
                if psutil.pid_exists(pid):
                    usage[name] = psutil.Process(pid).memory_info().rss
            samples.append((elapsed_s, usage))
            if launcher.poll() is not None:
                raise SystemExit(f"the run ended by itself after {elapsed_s:.0f} s")
            time.sleep(SAMPLE_PERIOD_S)
    finally:
        launcher.terminate()
        launcher.wait()
    return samples


def _roles(run_dir: Path) -> dict[str, int]:
    """Process ids as the log files tell them: each begins with 'pid N'."""
    found = {}
    for log in (run_dir / "logs").glob("*.log"):
        pids = [line.rsplit(" ", 1)[1] for line in log.read_text().splitlines() if ": pid " in line]
        if pids and pids[-1].isdigit():
            found[log.stem] = int(pids[-1])
    return found


def _figures(samples: list[tuple[float, dict[str, int]]], settle_s: float) -> list[Figure]:
    figures = []
    for role in samples[-1][1]:
        settled = [usage[role] for at, usage in samples if at >= settle_s and role in usage]
        if len(settled) < 2:
            continue
        # Halves of what remains, so that one sample's chance does not decide.
        half = len(settled) // 2
        early = sum(settled[:half]) / half
        late = sum(settled[half:]) / (len(settled) - half)
        name = f"memory.{role}.second half after {settle_s:.0f} s"
        figures.append(Figure(name, late / 1e6, "MB", early / 1e6, None, None))
    return figures
