"""What is measured: who takes part in a run, and at what pace."""

from dataclasses import dataclass, replace
from typing import Literal

from common.config import Config
from common.manifest import Manifest
from tests.benchmarks.own_replay import manifest_of
from tests.benchmarks.served import FRAMES, VECTORS, Workload

PAPER_ACTORS = 360
PAPER_TRANSITIONS_PER_S = 12_500.0
"""Of all actors; each has one environment and sends 50 transitions at a time (Horgan et al. 2018,
section 4.1)."""
PAPER_BATCHES_PER_S = 19.0
"""Of 512 transitions."""
PAPER_INSERT = 50
CAPACITY = 1 << 18
"""Transitions. At the paper's rate such a table is new after 21 s: what was drawn is still there
when it is read."""

PUBLISH_PERIOD_S = Config().publish_period / PAPER_BATCHES_PER_S
"""One broadcast in `publish_period` updates."""

Link = Literal["shared_memory", "wire"]
Receivers = Literal["hosts", "actors", "relay"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run of simulated actors with real servers."""

    workload: Workload
    actors: int
    transitions_per_s: float | None = PAPER_TRANSITIONS_PER_S / PAPER_ACTORS
    """That each actor offers, however long inserts take; None: as many as are acknowledged."""
    batches_per_s: float | None = PAPER_BATCHES_PER_S
    """That the learner's side asks for; None: as many as it gets; 0: none."""
    publish_period_s: float | None = PUBLISH_PERIOD_S
    """Between two versions of the weights; None: only when told to."""
    replay_servers: int = 1
    link: Link = "shared_memory"
    """How batches reach the learner's side."""
    hosts: int = 2
    """Processes that the actors are divided among."""
    weights_to: Receivers = "hosts"
    """Who takes weights: one subscription for each simulated host, as its relay would; every actor
    from the head; or every actor from a real relay."""
    preset: Manifest | None = None
    """The run's, where it is not what the workload says."""

    @property
    def inserts_per_s(self) -> float | None:
        """Of each actor."""
        if self.transitions_per_s is None:
            return None
        return self.transitions_per_s / self.workload.insert_size

    @property
    def actors_of_host(self) -> list[int]:
        """As even as can be, and no host without any."""
        hosts = min(self.hosts, self.actors)
        return [self.actors // hosts + (i < self.actors % hosts) for i in range(hosts)]

    @property
    def manifest(self) -> Manifest:
        """Free running, as in the paper: neither side waits for the rate limiter."""
        if self.preset is not None:
            return self.preset
        return manifest_of(
            self.workload,
            self.link,
            actors=self.actors,
            replay_servers=self.replay_servers,
            network="nature" if self.workload.frame_stack > 1 else "mlp",
        )


def paper_workload(observations: str) -> Workload:
    """Inserts of one block of 50 transitions: of 84×84 frames, or of CartPole's vectors."""
    workload = {"frames": FRAMES, "vectors": VECTORS}[observations]
    return replace(workload, blocks=1, length=PAPER_INSERT, capacity=CAPACITY)
