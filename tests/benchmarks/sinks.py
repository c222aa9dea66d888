"""What it costs a run to be written down: all sinks against none, within one run.

The run is a preset's as `deploy launch` starts it, but its sinks (metrics.jsonl, TensorBoard and,
if it is installed, Weights & Biases offline) can be switched off and on again while it goes on, and
while they are on, every process is scraped once a second as by Prometheus. Windows with and without
follow each other as on, off, off, on, so that what drifts, drifts in both. What a process measures
and tells the head is part of the run and always on.
"""

import contextlib
import importlib.util
import json as json_format
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import zmq

from common import run_directory
from common.config import Config
from common.exporter import MetricsOptions
from common.process import configure_logging
from deploy import presets
from deploy.status_client import Plain, StatusClient
from deploy.topology import RoleSpec, follower_roles, run_role
from learner.recorder import Record, Sink
from learner.targets import TARGETS_FILE
from tests.benchmarks.report import Figure, report
from tests.benchmarks.served import SPAWN

ENDLESS = 10**12
START_TIMEOUT_S = 120.0
POLL_S = 0.02
SCRAPE_PERIOD_S = 1.0
SETTLE_S = 1.5
"""After the switch: a record that was under way is written, and the next is due."""
METRICS = MetricsOptions(metrics_port=0)
ORDER = (True, False, False, True)
"""Windows of a round: with sinks or without."""


def run(
    preset: str = "cartpole",
    window_s: float = 5.0,
    rounds: int = 16,
    warm_up_s: float = 20.0,
    json: bool = False,
) -> None:
    """What it costs a run to be written down.

    Args:
        preset: Of deploy/presets.
        window_s: Seconds for each of a round's four windows, two with sinks and two without.
        rounds: How many; what a round's windows with sinks are to those without, in the median
            over the rounds, is the result.
        warm_up_s: Seconds of training before the first.
        json: Print one line of JSON for each figure.
    """
    report(figures(preset, window_s, rounds, warm_up_s), as_json=json)


def figures(preset: str, window_s: float, rounds: int, warm_up_s: float) -> list[Figure]:
    """Env steps and updates per second with all sinks, beside those without."""
    config = presets.load(preset).model_copy(
        update={
            "target_return": None,
            "total_env_steps": ENDLESS,
            "tensorboard": True,
            "wandb_project": "benchmark" if importlib.util.find_spec("wandb") else None,
        }
    )
    speeds: list[dict[bool, Speed]] = []
    with tempfile.TemporaryDirectory(prefix="zapex-") as directory:
        run_dir = Path(directory) / "run"
        run_directory.create(run_dir, config)
        switch = SPAWN.RawValue("b", 0)
        with _running(config, run_dir, switch) as status, _scraping(run_dir, switch):
            _latest(status, "training")
            time.sleep(warm_up_s)
            for _ in range(rounds):
                speeds.append({True: Speed(), False: Speed()})
                for written in ORDER:
                    switch.value = written
                    time.sleep(SETTLE_S)
                    before = _latest(status)
                    time.sleep(window_s)
                    speeds[-1][written].add(before, _latest(status))
        lines = len((run_dir / "metrics.jsonl").read_text().splitlines())
    written_s = 2 * rounds * (window_s + SETTLE_S)
    if lines < 0.9 * written_s:
        raise RuntimeError(f"{lines} records were written in {written_s:.0f} s")
    return [
        _figure(
            f"sinks.{preset}.env_steps",
            "env steps/s",
            [
                (s[True].env_steps / s[True].wall_s, s[False].env_steps / s[False].wall_s)
                for s in speeds
            ],
        ),
        _figure(
            f"sinks.{preset}.updates",
            "updates/s",
            [
                (s[True].updates / s[True].wall_s, s[False].updates / s[False].wall_s)
                for s in speeds
            ],
        ),
    ]


def _figure(name: str, unit: str, rounds: list[tuple[float, float]]) -> Figure:
    """The median speed with sinks, beside what it would be without by the median ratio."""
    value = statistics.median(with_sinks for with_sinks, _ in rounds)
    ratio = statistics.median(with_sinks / without for with_sinks, without in rounds)
    return Figure(name, value, unit, value / ratio, limit_name="no sinks")


@dataclass(slots=True)
class Speed:
    """Of a round's windows of one kind together."""

    wall_s: float = 0.0
    env_steps: int = 0
    updates: int = 0

    def add(self, before: Plain, after: Plain) -> None:
        """A window by the run's status at both ends."""
        self.wall_s += after["wall_s"] - before["wall_s"]
        self.env_steps += after["learner"]["env_steps"] - before["learner"]["env_steps"]
        self.updates += after["learner"]["updates"] - before["learner"]["updates"]


def _latest(status: StatusClient, phase: str = "training") -> Plain:
    """A status of now, as soon as the learner is in that phase."""
    status.latest()
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        found = status.latest()
        if found is not None and found["learner"]["phase"] == phase:
            return found
        time.sleep(POLL_S)
    raise TimeoutError("the run's head does not answer")


# ---------------------------------------------------------------------------------- its processes


@contextlib.contextmanager
def _running(config: Config, run_dir: Path, switch: Any) -> Iterator[StatusClient]:
    """All processes of a run, for as long as the context lasts."""
    os.environ["WANDB_MODE"] = "offline"
    with contextlib.ExitStack() as stack:
        bind = "tcp://127.0.0.1:0"
        learner = RoleSpec("learner", "learner", config, run_dir, bind, metrics=METRICS)
        head = stack.enter_context(_process(learner, switch))
        for spec in follower_roles(config, run_dir, head, bind, metrics=METRICS):
            stack.enter_context(_process(spec, switch))
        yield stack.enter_context(closing(StatusClient(head)))


@contextlib.contextmanager
def _process(spec: RoleSpec, switch: Any) -> Iterator[str]:
    """The address that a learner is ready at."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_be, args=(spec, switch, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        address = ""
        if spec.role == "learner":
            if not ours.poll(START_TIMEOUT_S):
                raise TimeoutError("the learner did not start")
            address = ours.recv()
        yield address
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _be(spec: RoleSpec, switch: Any, driver: Connection) -> None:
    """A role, until the driver closes its end."""
    configure_logging("warning", spec.log_file)
    torch.set_num_threads(1)  # As `deploy/child.py` does.
    stop = threading.Event()

    def stop_with_driver() -> None:
        with contextlib.suppress(EOFError, OSError):
            driver.recv()
        stop.set()

    threading.Thread(target=stop_with_driver, daemon=True).start()
    if spec.role == "learner":
        from learner import loop

        open_sinks = loop.open_sinks
        loop.open_sinks = lambda *args: [Switched(sink, switch) for sink in open_sinks(*args)]
    with zmq.Context() as context, contextlib.suppress(BrokenPipeError):
        run_role(spec, context, stop, driver.send)


class Switched:
    """A sink that gets what comes while the switch is on."""

    def __init__(self, sink: Sink, switch: Any) -> None:
        self._sink, self._switch = sink, switch

    def write(self, record: Record) -> None:
        if self._switch.value:
            self._sink.write(record)

    def close(self) -> None:
        self._sink.close()


@contextlib.contextmanager
def _scraping(run_dir: Path, switch: Any) -> Iterator[None]:
    """Every process of the run once a second, while the switch is on."""
    stop = threading.Event()

    def scrape() -> None:
        while not stop.wait(SCRAPE_PERIOD_S):
            if not switch.value:
                continue
            for group in json_format.loads((run_dir / TARGETS_FILE).read_text()):
                try:
                    url = f"http://{group['targets'][0]}/metrics"
                    with urllib.request.urlopen(url, timeout=5) as answer:
                        answer.read()
                except OSError as error:
                    print(f"could not scrape {group}: {error}", file=sys.stderr)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
