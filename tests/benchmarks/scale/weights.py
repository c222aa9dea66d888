"""What the head sends for one version of the weights, with a relay on the actors' host and
without, as the kernel counts it on its connections."""

import statistics
import time
from dataclasses import dataclass, replace

from tests.benchmarks.scale.plan import Plan, Receivers, paper_workload
from tests.benchmarks.scale.running import Running, running

TIMEOUT_S = 300.0
PATIENCE_S = 15.0
"""After which a version that was dropped for somebody, whose queue was full of what late
subscribers had asked for, is followed by another."""
POLL_S = 0.02
STILL_S = 0.5


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Of one version to all actors of a host; medians over the versions."""

    sent: float
    """Bytes that left the head on its weights' connections, TCP's and IP's headers not counted."""
    head_cpu_s: float
    reached_s: float
    """Until the last actor had it."""


def broadcast(actors: int, to: Receivers, versions: int) -> Broadcast:
    """The Nature network's weights to so many actors of one host, one version after the other."""
    plan = replace(
        Plan(paper_workload("frames"), actors),
        batches_per_s=0.0,
        publish_period_s=None,
        weights_to=to,
    )
    found: list[Broadcast] = []
    with running(plan) as run:
        # Late subscribers have asked for the first version, which may be on its way more than once.
        _spread(run)
        while len(found) < versions:
            before = _sent(run)
            first, since_s = run.read().head, time.monotonic()
            published, reached_s = _spread(run)
            last = run.read().head
            if published == 1:
                cpu_s = sum(last.cpu_s.values()) - sum(first.cpu_s.values())
                found.append(Broadcast(_sent(run) - before, cpu_s, reached_s - since_s))
    return Broadcast(
        statistics.median(b.sent for b in found),
        statistics.median(b.head_cpu_s for b in found),
        statistics.median(b.reached_s for b in found),
    )


def _spread(run: Running) -> tuple[int, float]:
    """Publishes until everybody has a version; returns how many that took, and when the last actor
    had the newest, by time.monotonic()."""
    deadline_s = time.monotonic() + TIMEOUT_S
    published = 0
    while time.monotonic() < deadline_s:
        number = run.publish()
        published += 1
        patience_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < patience_s:
            hosts = run.read().hosts
            if all(host.complete_versions > number for host in hosts):
                return published, max(host.versions[number] for host in hosts)
            time.sleep(POLL_S)
    raise TimeoutError(f"no version reached all actors within {TIMEOUT_S:.0f} s")


def _sent(run: Running) -> int:
    """Bytes on the weights' connections, once nothing is on its way any more."""
    known = -1
    while (sent := run.weights_sent()) != known:
        known = sent
        time.sleep(STILL_S)
    return sent
