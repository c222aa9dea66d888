"""How long a real actor takes into a run that is under way: its Join, its Welcome, its environments
and network, the first weights, and the first insert that is acknowledged."""

import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch
import zmq

from actor.loop import Actor
from common.descriptors import raise_limit
from common.finite import all_finite
from common.manifest import Manifest
from common.membership import Membership
from common.metrics import Telemetry
from deploy import presets
from tests.benchmarks.fed_rounds import manifest_of_preset
from tests.benchmarks.scale.plan import PAPER_ACTORS, PAPER_TRANSITIONS_PER_S, Plan
from tests.benchmarks.scale.running import running
from tests.benchmarks.served import Workload, child, hear

PRESET = "cartpole"


@dataclass(frozen=True, slots=True)
class Joined:
    """Seconds from when an actor begins to connect, its imports done: numba's late ones, too."""

    welcome_s: float
    """The head has taken it in."""
    acting_s: float
    """It has weights, and its environments have made a step."""
    accepted_s: float
    """Its first blocks are acknowledged."""


class _Watched(Membership):
    """Notes when the first insert was acknowledged, and has the actor stop then."""

    accepted_s: float | None = None

    def poll(self, now_s: float, telemetry: Telemetry) -> None:
        super().poll(now_s, telemetry)
        if self.accepted_s is None and any(
            h.metric.name == "actor_insert_ack_seconds" and h.read()[:-1].sum()
            for h in telemetry.histograms
        ):
            self.accepted_s = time.perf_counter()
            self.stop_requested = True


def preset_plan(actors: int) -> Plan:
    """The preset's run, in which every simulated actor sends what the preset's do, at the rate of
    the paper's."""
    config = presets.load(PRESET)
    return Plan(
        Workload(
            capacity=config.replay_capacity,
            batch_size=config.batch_size,
            blocks=config.envs_per_actor,
            length=config.block_length,
            n_step=config.n_step,
        ),
        actors,
        PAPER_TRANSITIONS_PER_S / PAPER_ACTORS,
        weights_to="actors",
        preset=_preset_manifest(actors),
    )


def _preset_manifest(actors: int) -> Manifest:
    manifest = manifest_of_preset(PRESET)
    changes = {"actors": actors + 1, "samples_per_insert": None}
    return Manifest("benchmark", manifest.config.model_copy(update=changes), manifest.spec)


def join_times(actors: int, rounds: int) -> list[Joined]:
    """Of an actor that comes and goes, while so many others are there. One that came before is not
    among them: what is compiled once after an installation is there by then."""
    found = []
    with running(preset_plan(actors)) as run:
        run.pace()
        for _ in range(1 + rounds):
            with child(_join, run.address) as actor:
                found.append(hear(actor))
    return found[1:]


def _join(head: str, driver: Connection) -> None:
    """A process: what `actor.loop.run_actor` does, but that the clock is read."""
    raise_limit()
    torch.set_num_threads(1)
    # numba imports most of itself, and SciPy, with the first compiled function that is called.
    all_finite(np.zeros(1, np.float32))
    stop = threading.Event()
    with zmq.Context() as context:
        since_s = time.perf_counter()
        with _Watched(context, head, "actor") as membership:
            manifest = membership.join(time.monotonic, stop)
            assert manifest is not None
            welcome_s = time.perf_counter()
            acting_s: list[float] = []
            actor = Actor(context, membership, manifest, manifest.config.envs_per_actor, stop)
            actor.run(lambda _: acting_s.append(time.perf_counter()))
            accepted_s = membership.accepted_s
            assert accepted_s is not None
        driver.send(Joined(welcome_s - since_s, acting_s[0] - since_s, accepted_s - since_s))
