"""What can happen to a network, and a run through it: before, during and after, in figures."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from tests.network.cluster import FRAME, SMALL, Cluster

SAMPLE_PERIOD_S = 0.25
RATE_WINDOW_S = 2.0
RECOVERED = 0.8
"""Of the rate before."""
RECOVERY_LIMIT_S = 60.0
PIPE_BYTES_PER_S = 1_000_000


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that begins and ends."""

    what: str
    begin: Callable[[Cluster], None]
    end: Callable[[Cluster], None]
    shape: tuple[int, ...] = SMALL
    """Of an observation."""


def _vanish(cluster: Cluster) -> None:
    """Its host is gone: nobody hears of it, and no connection is closed."""
    cluster.far.cut()
    cluster.commands["far"].kill_family()


def _reappear(cluster: Cluster) -> None:
    cluster.far.rejoin()
    cluster.start_actor("far")


FAULTS = {
    "delay": Fault(
        "200 ms more each way",
        lambda cluster: cluster.far.delay(200),
        lambda cluster: cluster.far.delay(0),
    ),
    "loss": Fault(
        "5% of the packets lost each way",
        lambda cluster: cluster.far.lose(0.05),
        lambda cluster: cluster.far.hear(),
    ),
    "narrow": Fault(
        "1 MB/s each way, 84×84 frames",
        lambda cluster: cluster.far.narrow(PIPE_BYTES_PER_S),
        lambda cluster: cluster.far.narrow(None),
        FRAME,
    ),
    "partition": Fault(
        "nothing passes",
        lambda cluster: cluster.far.cut(),
        lambda cluster: cluster.far.rejoin(),
    ),
    "deaf": Fault(
        "the actor's packets arrive, none reaches it",
        lambda cluster: cluster.far.deafen(),
        lambda cluster: cluster.far.hear(),
    ),
    "vanished": Fault("the actor's host vanishes, another comes", _vanish, _reappear),
    "moved": Fault(
        "the learner dies and takes the run up at another address",
        lambda cluster: cluster.lose_head(),
        lambda cluster: cluster.move_head(),
    ),
}
"""By name, what is done to the far actor or to the head."""


def own_bytes(process: psutil.Process) -> int:
    """Resident memory without mapped files: a replay fills its own by and by."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


@dataclass(slots=True)
class Watch:
    """What is seen of a cluster, sample by sample."""

    cluster: Cluster
    rows: list[tuple[float, int, int]] = field(default_factory=list)
    """Time in seconds, rows of the far and of the near actor that are stored."""
    memory_bytes: dict[str, int] = field(default_factory=dict)
    """Resident and of its own, which mapped files are not: the largest, by role."""
    lag: int = 0
    """The far actor's, in updates, at most."""

    def sample(self) -> None:
        cluster = self.cluster
        self.rows.append((time.monotonic(), cluster.rows("far"), cluster.rows("near")))
        self.lag = max(self.lag, cluster.lag("far"))
        for name, command in cluster.commands.items():
            if command.process.poll() is None:
                now_bytes = own_bytes(cluster.process(name))
                self.memory_bytes[name] = max(self.memory_bytes.get(name, 0), now_bytes)

    def last(self, seconds: float) -> None:
        """Sample for so long."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self.sample()
            time.sleep(SAMPLE_PERIOD_S)
        self.sample()

    def rates(self) -> tuple[float, float]:
        """Rows per second of the far and of the near actor, from the first sample to the last."""
        first, last = self.rows[0], self.rows[-1]
        seconds = last[0] - first[0]
        return (last[1] - first[1]) / seconds, (last[2] - first[2]) / seconds


@dataclass(frozen=True, slots=True)
class Finding:
    """How a run went through a fault."""

    before: float
    during: float
    after: float
    """Env steps/s of the far actor that reached the replay."""
    near: float
    """The near actor's during the fault, beside before."""
    recovery_s: float
    """From the end of the fault to the beginning of the first two seconds in which the far actor
    was as fast as before, all but a fifth."""
    grown_mb: dict[str, float]
    """By role: memory during the fault and after it, at most, over that before."""
    lag: int
    """Updates by which the far actor was behind, at most."""
    lost: int
    doubled: int


def measure(cluster: Cluster, fault: Fault, before_s: float, seconds: float) -> Finding:
    """Let a running cluster go through a fault of so many seconds, and end it."""
    before, during, after = Watch(cluster), Watch(cluster), Watch(cluster)
    before.last(before_s)
    fault.begin(cluster)
    during.last(seconds)
    fault.end(cluster)
    rate, near = before.rates()
    recovery_s = _recovery_s(after, rate)
    after.last(before_s)
    cluster.stop()
    largest = {
        name: max(watch.memory_bytes.get(name, 0) for watch in (during, after))
        for name in before.memory_bytes
    }
    return Finding(
        before=rate,
        during=during.rates()[0],
        after=after.rates()[0],
        near=during.rates()[1] / near,
        recovery_s=recovery_s,
        grown_mb={n: (size - before.memory_bytes[n]) / 1e6 for n, size in largest.items()},
        lag=max(during.lag, after.lag),
        lost=cluster.stored.lost(),
        doubled=cluster.stored.doubled(),
    )


def _recovery_s(watch: Watch, rate_before: float) -> float:
    """Sample until the rate is what it was; what comes behind is sampled anew."""
    healed_s = time.monotonic()
    while time.monotonic() - healed_s < RECOVERY_LIMIT_S:
        watch.sample()
        now_s, far, _ = watch.rows[-1]
        for since_s, before, _ in reversed(watch.rows):
            if now_s - since_s >= RATE_WINDOW_S:
                if (far - before) / (now_s - since_s) >= RECOVERED * rate_before:
                    del watch.rows[:-1]
                    return since_s - healed_s
                break
        time.sleep(SAMPLE_PERIOD_S)
    raise TimeoutError(f"not recovered within {RECOVERY_LIMIT_S:g} s")
