"""Environment steps and learner updates per second of whole runs, as `deploy launch` starts them.

A preset without a target runs until the rate limiter has made one side wait for the other, and for
a while longer; its head is asked for its counters at two inserts, a window apart. From then on a
run moves as its slower side does, for the limiter keeps acting and learning in proportion (samples
per insert). The limit is what its actors and its learner could do at best, each alone on a core:
the bare loop of `actor_pipeline` for every actor, and the update on a static batch of
`learner_fed`; the less of the two. Evaluations go on meanwhile.
"""

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from common.config import Config
from common.environments import probe_spec
from common.errors import ConfigError, EnvironmentFault
from common.security import open_security
from deploy import presets
from deploy.status_client import Plain, StatusClient
from tests.benchmarks import actor_pipeline, learner_fed
from tests.benchmarks.report import Figure, report

ENDLESS = 10**12
POLL_S = 0.05
START_TIMEOUT_S = 300.0
BAND_TIMEOUT_S = 180.0
"""The limiter lets one side run ahead for so long at most."""
INSERT_TIMEOUT_S = 300.0
"""From one insert to the next at most."""
BLOCKED = ("replay_insert_blocked_seconds_total", "replay_sample_blocked_seconds_total")
"""Who the limiter held back, at the run's only replay server."""
BLOCKED_S = 0.2
"""A side that waited for so long has reached the edge of the limiter's band."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Of a run, or the most it could have."""

    env_steps_per_s: float
    updates_per_s: float
    waiting: float = 0.0
    """Share of the time in which the learner had no batch."""


def run(
    names: tuple[str, ...] = ("cartpole", "minatar-breakout", "pong"),
    window_s: float = 40.0,
    settle_s: float = 3.0,
    limit_window_s: float = 2.0,
    json: bool = False,
) -> None:
    """Environment steps and updates per second of whole runs.

    Args:
        names: Presets.
        window_s: Seconds for which each is measured, and until the next insert.
        settle_s: Seconds from when one side waited for the other to the window's begin.
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
        speed = speed_of(name, window_s, settle_s)
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


def speed_of(name: str, window_s: float, settle_s: float, words: Sequence[str] = ()) -> Speed:
    """Of a run of that preset, with the keys that the environment names. `words`: further flags of
    `deploy launch`."""
    with tempfile.TemporaryDirectory(prefix="zapex-") as directory:
        head = f"tcp://127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "deploy", "launch", "--preset", name, "--bind", head]
        command += ["--run-dir", str(Path(directory) / "run"), "--target-return", "none"]
        command += ["--total-env-steps", str(ENDLESS), *words]
        launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            with closing(StatusClient(head, security=open_security(None))) as status:
                return speed_seen(status, window_s, settle_s, launcher.poll)
        finally:
            launcher.terminate()
            launcher.wait()


def speed_seen(
    status: StatusClient,
    window_s: float,
    settle_s: float,
    ended: Callable[[], int | None] = lambda: None,
) -> Speed:
    """Of a run that was started, once one side has waited for the other.

    Args:
        ended: the exit code of what started it, once there is one.
    """
    watch = _Watch(status, ended)
    started = watch.until(lambda s: s["learner"]["phase"] == "training", START_TIMEOUT_S)
    at_first = _blocked_s(started)
    watch.until(lambda s: _blocked_s(s) > at_first + BLOCKED_S, BAND_TIMEOUT_S)
    first = watch.insert_after(settle_s)
    last = watch.insert_after(window_s)
    elapsed_s = last["wall_s"] - first["wall_s"]
    before, after = first["learner"], last["learner"]
    return Speed(
        (after["env_steps"] - before["env_steps"]) / elapsed_s,
        (after["updates"] - before["updates"]) / elapsed_s,
        (after["waited_s"] - before["waited_s"]) / elapsed_s,
    )


class _Watch:
    """What a run says of itself, for as long as it goes on."""

    def __init__(self, status: StatusClient, ended: Callable[[], int | None]) -> None:
        self._status, self._ended = status, ended

    def until(self, reached: Callable[[Plain], bool], most_s: float) -> Plain:
        """The first status that says so, or the first after `most_s` seconds."""
        deadline_s = time.monotonic() + most_s
        while True:
            code = self._ended()
            if code is not None:
                raise RuntimeError(f"the run ended with exit code {code}")
            fresh = self._status.latest()
            if fresh is not None and (reached(fresh) or time.monotonic() >= deadline_s):
                return fresh
            if time.monotonic() >= deadline_s + START_TIMEOUT_S:
                raise TimeoutError("the run's head does not answer")
            time.sleep(POLL_S)

    def insert_after(self, pause_s: float) -> Plain:
        """The status with the first insert after so many seconds: a window from one insert to
        another counts whole ones, however large and rare they are."""
        paused = self.until(lambda s: False, pause_s)
        found = self.until(lambda s: _env_steps(s) > _env_steps(paused), INSERT_TIMEOUT_S)
        if _env_steps(found) == _env_steps(paused):
            raise TimeoutError(f"no insert within {INSERT_TIMEOUT_S:.0f} s")
        return found


def _env_steps(status: Plain) -> int:
    steps: int = status["learner"]["env_steps"]
    return steps


def _blocked_s(status: Plain) -> float:
    """Time for which one side has waited for the other."""
    values = [m["values"] for m in status["members"] if m["role"] == "replay_server"]
    return sum(v.get(name, 0.0) for v in values for name in BLOCKED)


def free_port() -> int:
    """Of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
