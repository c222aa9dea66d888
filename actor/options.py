"""What a process of this package is told where it is started; all else comes from the head.

The parent of a host's actors holds them without importing torch.
"""

from dataclasses import dataclass
from pathlib import Path

from common.exporter import NO_METRICS, MetricsOptions
from common.membership import JOIN_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class MemberOptions:
    """Of an actor, an evaluator, an inference process or a weight relay."""

    connect: str
    """The head's address."""
    bind: str = "tcp://127.0.0.1:0"
    """Where this host's actors reach an inference process or a relay; port 0 takes a free one."""
    num_envs: int = 0
    """Environments in an actor; 0: as many as the run's configuration says."""
    number: int = -1
    """Take over from the process of this host that had this number and died, or join under it if
    it is free; −1: any."""
    metrics: MetricsOptions = NO_METRICS
    """Where Prometheus can scrape this process."""
    profile: Path | None = None
    """Directory in which an actor or an inference process records its loop's phases."""
    join_timeout_s: float = JOIN_TIMEOUT_S
    """How long it waits to be taken in."""
    videos: Path | None = None
    """Directory for an evaluator's videos; None: it films nothing."""
