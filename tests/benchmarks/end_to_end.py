"""Environment steps and learner updates per second of whole runs, as `deploy launch` starts them.

A preset without a target runs until some seconds after training began, and its head is asked for
its counters at both ends of a window. A run moves as fast as its slower side, for the rate limiter
keeps acting and learning in proportion (samples per insert). The limit is what its actors and its
learner could do at best, each alone on a core: the bare loop of `actor_pipeline` for every actor,
and the update on a static batch of `learner_fed`; the less of the two. Evaluations go on meanwhile.
"""

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import Config
from common.environments import probe_spec
from common.errors import ConfigError, EnvironmentFault
from deploy import presets
from deploy.live_view import StatusClient
from tests.benchmarks import actor_pipeline, learner_fed
from tests.benchmarks.report import Figure, report

ENDLESS = 10**12
POLL_S = 0.05
START_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Speed:
    """Of a run, or the most it could have."""

    env_steps_per_s: float
    updates_per_s: float
    waiting: float = 0.0
    """Share of the time in which the learner had no batch."""


def run(
    names: tuple[str, ...] = ("cartpole", "minatar-breakout", "pong"),
    window_s: float = 20.0,
    settle_s: float = 3.0,
    limit_window_s: float = 2.0,
    json: bool = False,
) -> None:
    """Environment steps and updates per second of whole runs.

    Args:
        names: Presets.
        window_s: Seconds for which each is measured.
        settle_s: Seconds from the first update to the window's begin.
        limit_window_s: Seconds for each of three windows of what bounds a run.
        json: Print one line of JSON for each figure.
    """
    report(figures(names, window_s, settle_s, limit_window_s), as_json=json)


def figures(
    names: tuple[str, ...], window_s: float, settle_s: float, limit_window_s: float
) -> list[Figure]:
    """Each preset's speed beside its limit; presets that are not there are left out."""
    result = []
    for name in names:
        try:
            config = presets.load(name)
            probe_spec(config)
        except (ConfigError, EnvironmentFault) as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        limit = _limit(name, config, limit_window_s)
        speed = _speed(name, window_s, settle_s)
        where, bound = f"end_to_end.{name}", "bare loop and static batch"
        result += [
            Figure(
                f"{where}.env_steps",
                speed.env_steps_per_s,
                "env steps/s",
                limit.env_steps_per_s,
                limit_name=bound,
            ),
            Figure(
                f"{where}.updates",
                speed.updates_per_s,
                "updates/s",
                limit.updates_per_s,
                limit_name=bound,
            ),
            Figure(f"{where}.learner_waiting", speed.waiting, "of the time"),
        ]
    return result


def _limit(name: str, config: Config, window_s: float) -> Speed:
    case = actor_pipeline.Case(name, config.vectorization, config.envs_per_actor)
    acting = config.actors * actor_pipeline.steps_per_s(case, ("bare",), 3, window_s)["bare"]
    rounds = learner_fed.updates_per_s(["--preset", name], 3, window_s, config.learner_threads)
    learning = statistics.median(rounds["static"])
    if config.samples_per_insert is None:
        return Speed(acting, learning)
    steps_per_update = config.batch_size / config.samples_per_insert
    env_steps_per_s = min(acting, learning * steps_per_update)
    return Speed(env_steps_per_s, env_steps_per_s / steps_per_update)


def _speed(name: str, window_s: float, settle_s: float) -> Speed:
    with tempfile.TemporaryDirectory(prefix="zapex-") as directory:
        head = f"tcp://127.0.0.1:{_free_port()}"
        command = [sys.executable, "-m", "deploy", "launch", "--preset", name, "--bind", head]
        command += ["--run-dir", str(Path(directory) / "run"), "--target-return", "none"]
        command += ["--total-env-steps", str(ENDLESS)]
        launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            with closing(StatusClient(head)) as status:
                _wait_for(status, launcher, time.monotonic() + START_TIMEOUT_S, training=True)
                first = _wait_for(status, launcher, time.monotonic() + settle_s)
                last = _wait_for(status, launcher, time.monotonic() + window_s)
        finally:
            launcher.terminate()
            launcher.wait()
    elapsed_s = last["wall_s"] - first["wall_s"]
    before, after = first["learner"], last["learner"]
    return Speed(
        (after["env_steps"] - before["env_steps"]) / elapsed_s,
        (after["updates"] - before["updates"]) / elapsed_s,
        (after["waited_s"] - before["waited_s"]) / elapsed_s,
    )


def _wait_for(
    status: StatusClient,
    launcher: "subprocess.Popen[bytes]",
    deadline_s: float,
    *,
    training: bool = False,
) -> dict[str, Any]:
    """The first status after the deadline; or before it, if `training` and the run does."""
    while launcher.poll() is None:
        latest = status.latest()
        late = time.monotonic() >= deadline_s
        if latest is not None and (latest["learner"]["phase"] == "training" if training else late):
            return latest
        if training and late:
            raise TimeoutError(f"no update within {START_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)
    raise RuntimeError(f"the run ended by itself, with exit code {launcher.returncode}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
