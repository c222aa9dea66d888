"""What a run of any size needs, from what its parts were measured to cost: docs/scaling.md.

Sums and products of measured constants; no queueing, no other machines. The page's tables are made
here, between its markers, whenever `all --markdown` measures `scale`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from common.block_columns import block_bytes
from tests.benchmarks.markdown import table
from tests.benchmarks.own_replay import manifest_of
from tests.benchmarks.report import Figure, number
from tests.benchmarks.scale.plan import (
    PAPER_ACTORS,
    PAPER_BATCHES_PER_S,
    PAPER_INSERT,
    PAPER_TRANSITIONS_PER_S,
    PUBLISH_PERIOD_S,
    paper_workload,
)

BUSY = 0.7
"""Share of a core up to which a replay server is loaded: beyond it, waiting times grow."""
STEPS_PER_S = PAPER_TRANSITIONS_PER_S / PAPER_ACTORS
"""Of one environment."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Constants, each measured: its name is its figure's, behind `scale.cost.`."""

    head_idle: float
    """% of a core: the head's control and ZeroMQ threads without any actor."""
    head_per_actor: float
    """µs of a core each second: heartbeats, answers, records."""
    head_memory: float
    """MB: the head's process, without a network's activations and optimiser."""
    head_memory_per_actor: float
    """kB."""
    weights_per_subscriber: float
    """ms of a core for one version of 13 MB."""
    weights_bytes: float
    """MB of one version to one subscriber."""
    feed_per_batch_shared_memory: float
    """ms of a core of the head's: a batch of 512 with frames, gathered."""
    feed_per_batch_wire: float
    """The same, received and unpacked."""
    replay_per_batch_shared_memory: float
    """ms of a core of the replay server's: a batch drawn, 512 priorities updated."""
    replay_per_batch_wire: float
    """The same, gathered, packed and sent."""
    replay_per_transition_of_1: float
    """µs of a core for one transition of an actor with one environment, 50 in an insert."""
    replay_per_transition_of_16: float
    """The same with 16 environments, 1,024 in an insert."""
    insert_bytes_per_transition: float
    """On the wire, between hosts; `tests/benchmarks/served.py` has how these frames compress."""
    batch_bytes_wire: float
    """MB of a batch."""
    control_bytes_per_actor: float
    """Each second, both ways."""

    @classmethod
    def of(cls, figures: Iterable[Figure]) -> "Costs":
        """Raises KeyError where one was not measured."""
        values = {figure.name: figure.value for figure in figures}
        return cls(**{field.name: values[f"scale.cost.{field.name}"] for field in fields(cls)})


UNITS = {
    "head_idle": "% of a core",
    "head_per_actor": "µs/s",
    "head_memory": "MB",
    "head_memory_per_actor": "kB",
    "weights_per_subscriber": "ms/version",
    "weights_bytes": "MB/version",
    "feed_per_batch_shared_memory": "ms/batch",
    "feed_per_batch_wire": "ms/batch",
    "replay_per_batch_shared_memory": "ms/batch",
    "replay_per_batch_wire": "ms/batch",
    "replay_per_transition_of_1": "µs/transition",
    "replay_per_transition_of_16": "µs/transition",
    "insert_bytes_per_transition": "bytes",
    "batch_bytes_wire": "MB/batch",
    "control_bytes_per_actor": "bytes/s",
}


@dataclass(frozen=True, slots=True)
class Size:
    """A run."""

    name: str
    actors: int
    envs_per_actor: int
    hosts: int
    """Of actors; 1: the head's own."""
    capacity: int = 2_000_000
    """Transitions, as in the paper."""
    batches_per_s: float = PAPER_BATCHES_PER_S

    @property
    def transitions_per_s(self) -> float:
        return self.actors * self.envs_per_actor * STEPS_PER_S


SIZES = (
    Size("a laptop", 8, 16, 1, capacity=250_000),
    Size("the paper's set-up", PAPER_ACTORS, 1, 12),
    Size("1,000 actors", 1_000, 1, 32),
    Size("10,000 environments", 625, 16, 20),
    Size("100,000 environments", 2_000, 50, 100),
)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run needs, beside its actors' own cores and the learner's GPU."""

    transitions_per_s: float
    insert_bytes_per_s: float
    """Into the replay servers."""
    weights_bytes_per_s: float
    """Out of the head, one subscription for each host."""
    weights_bytes_per_s_without_relay: float
    control_bytes_per_s: float
    batch_bytes_per_s: float
    """Into the head, from replay servers on other hosts; from its own host: none."""
    head_cores: float
    """With relays, and replay servers on the head's host if one is enough."""
    replay_cores: float
    replay_servers: int
    head_bytes: float
    replay_bytes: float


def needs(costs: Costs, size: Size) -> Needs:
    """Sums of constants."""
    transitions_per_s, versions_per_s = size.transitions_per_s, 1 / PUBLISH_PERIOD_S
    one_env = size.envs_per_actor == 1
    per_transition_us = (
        costs.replay_per_transition_of_1 if one_env else costs.replay_per_transition_of_16
    )
    inserting = transitions_per_s * per_transition_us / 1e6
    local = inserting + size.batches_per_s * costs.replay_per_batch_shared_memory / 1e3
    by_wire = local > BUSY
    drawing_ms = costs.replay_per_batch_wire if by_wire else costs.replay_per_batch_shared_memory
    feeding_ms = costs.feed_per_batch_wire if by_wire else costs.feed_per_batch_shared_memory
    replay_cores = inserting + size.batches_per_s * drawing_ms / 1e3
    subscribers_per_s = size.hosts * versions_per_s
    head_cores = (
        costs.head_idle / 100
        + size.actors * costs.head_per_actor / 1e6
        + size.batches_per_s * feeding_ms / 1e3
        + subscribers_per_s * costs.weights_per_subscriber / 1e3
    )
    weights_bytes = costs.weights_bytes * 1e6
    return Needs(
        transitions_per_s=transitions_per_s,
        insert_bytes_per_s=transitions_per_s * costs.insert_bytes_per_transition,
        weights_bytes_per_s=subscribers_per_s * weights_bytes,
        weights_bytes_per_s_without_relay=size.actors * versions_per_s * weights_bytes,
        control_bytes_per_s=size.actors * costs.control_bytes_per_actor,
        batch_bytes_per_s=size.batches_per_s * costs.batch_bytes_wire * 1e6 if by_wire else 0.0,
        head_cores=head_cores,
        replay_cores=replay_cores,
        replay_servers=max(math.ceil(replay_cores / BUSY), 1),
        head_bytes=costs.head_memory * 1e6 + size.actors * costs.head_memory_per_actor * 1e3,
        replay_bytes=size.capacity * bytes_per_transition(),
    )


def bytes_per_transition() -> float:
    """Stored, all columns and overlaps counted, in blocks of 50 frames."""
    manifest = manifest_of(paper_workload("frames"))
    slots = manifest.config.replay_slots
    return block_bytes(manifest.spec, manifest.layout, slots) / (slots * PAPER_INSERT)


# --------------------------------------------------------------------------------------- the page


def costs_table(costs: Costs) -> str:
    """Every constant."""
    rows = [[name, number(getattr(costs, name)), unit] for name, unit in UNITS.items()]
    return table({"constant": False, "value": True, "unit": False}, rows)


def needs_table(costs: Costs) -> str:
    """A row for each size."""
    headings = dict.fromkeys(
        (
            "transitions/s",
            "inserts, MB/s",
            "weights, MB/s",
            "without relay",
            "without relay, float16",
            "heartbeats, MB/s",
            "batches, MB/s",
            "head, cores",
            "replay, cores",
            "replay servers",
            "head, GB",
            "replay, GB",
        ),
        True,
    )
    rows = []
    for size in SIZES:
        found = needs(costs, size)
        direct = found.weights_bytes_per_s_without_relay
        values = (
            found.transitions_per_s,
            found.insert_bytes_per_s / 1e6,
            found.weights_bytes_per_s / 1e6,
            direct / 1e6,
            direct / 2e6,
            found.control_bytes_per_s / 1e6,
            found.batch_bytes_per_s / 1e6,
            found.head_cores,
            found.replay_cores,
            found.replay_servers,
            found.head_bytes / 1e9,
            found.replay_bytes / 1e9,
        )
        what = f"{size.name}: {size.actors:,} × {size.envs_per_actor}, {size.hosts} hosts"
        rows.append([what.replace(", 1 hosts", ", 1 host"), *map(number, values)])
    return table({"actors × environments": False} | headings, rows)


def refreshed(page: str, costs: Costs) -> str:
    """The page with both tables anew. Raises ValueError where it has no place for one."""
    page = _filled(page, "costs", costs_table(costs))
    return _filled(page, "needs", needs_table(costs))


def _filled(page: str, name: str, made: str) -> str:
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"the page has no place for the table of {name}")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{made}\n{end}{after}"
