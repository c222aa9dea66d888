"""Batches of several servers, each a real table in the test's hands, against one big table."""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import zmq
from scipy.stats import chisquare

from common import codec, transport
from common.blocks import RowKind
from common.config import Config
from common.errors import WireError
from common.manifest import Manifest
from common.messages import Insert, Message, PartRequest, Rejected, Serving
from common.trace import NO_TRACE
from learner.batches import Used
from learner.shards import PATIENCE_S, ShardedBatches
from learner.update import TrainBatch
from replay_server.server import build_table
from replay_server.table import Table
from tests.experience import LAYOUT, SPEC, insert, steps

N = 32
ALPHA, EPSILON = 0.6, 1e-6


def config(**changes: Any) -> Config:
    values: dict[str, Any] = {
        "batch_size": N,
        "replay_servers": 2,
        "block_length": LAYOUT.length,
        "n_step": LAYOUT.n_step,
        "envs_per_actor": 1,
        "replay_capacity": 400,
        "min_size_to_sample": 1,
        "samples_per_insert": None,
        "prefetch_batches": 3,
        "priority_exponent": ALPHA,
        "priority_epsilon": EPSILON,
        "importance_sampling_exponent": 0.5,
    }
    return Config(**{**values, **changes})


def block(server: int, number: int, priority: float) -> Insert:
    """The number-th block that the server gets, from 1: its observations say so, and its
    transitions have priorities of once, twice, three and four times `priority`."""
    message = insert(steps(), session=server, sequence=number - 1)
    obs = np.empty_like(message.obs)
    obs[..., 0], obs[..., 1] = server, number
    priorities = (priority * np.arange(1, LAYOUT.length + 1, dtype=np.float32))[None]
    return replace(message, obs=obs, priority=priorities, oldest=0)


class Server:
    """A table behind a socket, which answers when the test wants it to."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], run: Manifest, number: int) -> None:
        self.number = number
        self.socket, endpoint = transport.bind(context, zmq.ROUTER, f"inproc://replay-{number}")
        self.serving = Serving(number, endpoint)
        self.table: Table = build_table(run, None)
        self.heard: list[PartRequest] = []
        self.blocks = 0

    def insert(self, priority: float = 1.0) -> bool:
        """Another block; whether it was stored at once."""
        self.blocks += 1
        message = block(self.number, self.blocks, priority)
        return bool(self.table.handle(b"actor", message, 0.0))

    def answer(self) -> int:
        """Everything that was asked; how many requests."""
        count = 0
        while (frames := transport.receive_frames(self.socket)) is not None:
            message = codec.decode(frames[1:])
            assert isinstance(message, PartRequest)
            self.heard.append(message)
            count += 1
            for peer, reply in self.table.replies(bytes(frames[0]), message, 0.0):
                assert transport.send(self.socket, reply, prefix=(peer,))
        # What waited and may be stored now.
        list(self.table.advance())
        return count

    def send(self, peer: bytes, message: Message) -> None:
        transport.send(self.socket, message, prefix=(peer,))


class Stage:
    """A learner's batches, and servers with blocks of these priorities."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        ends: ExitStack,
        priorities: Mapping[int, list[float]],
        **changes: Any,
    ) -> None:
        self.config = config(replay_servers=len(priorities), **changes)
        run = Manifest("run", self.config, SPEC)
        assert run.layout == LAYOUT
        self.now_s = 100.0
        self._ready: deque[TrainBatch] = deque()
        self.servers = {n: Server(context, run, n) for n in priorities}
        for number, server in self.servers.items():
            ends.callback(server.socket.close, linger=0)
            for priority in priorities[number]:
                server.insert(priority)
        self.batches = ShardedBatches(
            context,
            {n: server.serving for n, server in self.servers.items()},
            run,
            torch.device("cpu"),
            NO_TRACE,
            now_s=lambda: self.now_s,
        )
        ends.callback(self.batches.close)

    def turn(self, *silent: int) -> list[TrainBatch]:
        """The servers answer, but for the silent ones; what is complete then."""
        for number, server in self.servers.items():
            if number not in silent:
                server.answer()
        # Time goes on: who waits asks again.
        self.now_s += 0.01
        return list(self.batches.receive())

    def next(self, *silent: int) -> TrainBatch:
        """The next batch, which must come within a few turns."""
        for _ in range(10):
            if self._ready:
                return self._ready.popleft()
            self._ready += self.turn(*silent)
        raise AssertionError("no batch came")

    def done(self, batch: TrainBatch, priority: Any = None) -> None:
        values = np.ones(N, np.float32) if priority is None else priority
        self.batches.give_back([Used(batch.slot, batch.key, values)])

    def probability(self) -> dict[tuple[int, int], float]:
        """With which one table of all blocks would draw each transition, by server and key."""
        mass = {}
        for number, server in self.servers.items():
            storage = server.table.storage
            for slot in storage.filled():
                for row in range(LAYOUT.length):
                    key = int(storage.number[slot]) * LAYOUT.length + row
                    raised = (float(storage.priority[slot, row]) + EPSILON) ** ALPHA
                    mass[number, key] = raised if self.config.prioritized else 1.0
        total = math.fsum(mass.values())
        return {item: m / total for item, m in mass.items()}


def items(batch: TrainBatch) -> list[tuple[int, int]]:
    """Server and key of each row; the observation tells the server."""
    return list(zip(batch.frames[:, 0, 0].int().tolist(), batch.key.tolist(), strict=True))


@pytest.fixture
def stages() -> Iterator[Callable[..., Stage]]:
    with zmq.Context() as context, ExitStack() as ends:
        yield lambda priorities, **changes: Stage(context, ends, priorities, **changes)


Start = Callable[..., Stage]
UNEQUAL = {0: [0.5, 1.0, 0.2], 1: [8.0], 2: [0.1, 0.1]}
"""Six blocks on three servers, of which the one with the fewest has the most to learn from."""


@pytest.mark.parametrize("prioritized", [True, False])
def test_transitions_are_drawn_as_often_as_from_one_big_table(
    stages: Start, prioritized: bool
) -> None:
    stage = stages(UNEQUAL, prioritized=prioritized)
    expected = stage.probability()
    assert len(expected) == 24
    drawn: Counter[tuple[int, int]] = Counter()
    for _ in range(400):
        batch = stage.next()
        drawn.update(items(batch))
        # Their priorities stay what they were.
        priority = [
            stage.servers[server].table.storage.priority.reshape(-1)[
                stage.servers[server].table.storage.live_items(np.array([key]))[0][0]
            ]
            for server, key in items(batch)
        ]
        stage.done(batch, np.array(priority, np.float32))
    counts = np.array([drawn[item] for item in expected])
    assert counts.sum() == 400 * N
    # Strata make counts spread less than chance would: only an excess could be seen.
    assert chisquare(counts, np.array(list(expected.values())) * 400 * N).pvalue > 1e-3


def test_weights_are_those_of_one_big_table(stages: Start) -> None:
    stage = stages(UNEQUAL)
    expected = stage.probability()
    batch = stage.next()
    assert batch.table_size == 24
    # (N·P)^−β over the largest of the batch, Schaul et al. 2016, section 3.4.
    weight = np.array([(24 * expected[item]) ** -0.5 for item in items(batch)])
    np.testing.assert_allclose(batch.weight.numpy(), weight / weight.max(), rtol=1e-5)


def test_priorities_go_back_to_the_server_that_each_transition_came_from(stages: Start) -> None:
    stage = stages(UNEQUAL)
    batch = stage.next()
    sent = {item: float(10 + place) for place, item in enumerate(items(batch))}  # The last counts.
    stage.done(batch, np.arange(10, 10 + N, dtype=np.float32))
    before = {n: s.table.storage.priority.copy() for n, s in stage.servers.items()}
    stage.turn()
    for number, server in stage.servers.items():
        storage = server.table.storage
        for slot in storage.filled():
            for row in range(LAYOUT.length):
                key = int(storage.number[slot]) * LAYOUT.length + row
                wanted = sent.get((number, key), float(before[number][slot, row]))
                assert storage.priority[slot, row] == wanted


def test_each_batch_is_counted_once_by_the_server_that_is_farthest_behind(stages: Start) -> None:
    stage = stages({0: [1.0] * 30, 1: [1.0] * 10}, samples_per_insert=8.0, prefetch_batches=1)
    for _ in range(30):
        stage.done(stage.next())
    # As far as either has something to give, they stay equally far behind.
    errors = [server.table.limiter.error for server in stage.servers.values()]
    assert abs(errors[0] - errors[1]) <= N
    batch = stage.next()
    assert batch.inserted == {n: s.table.limiter.inserts for n, s in stage.servers.items()}
    counted = sum(request.counted for s in stage.servers.values() for request in s.heard)
    assert batch.sampled == counted == 31 * N


@pytest.mark.parametrize("seed", range(5))
def test_neither_side_waits_for_the_other_for_ever_however_unevenly_actors_insert(
    stages: Start, seed: int
) -> None:
    """Actors of one server insert far more often; none is ever kept waiting while the learner may
    not go on either, and each server's error stays in its band."""
    tolerance, ratio = 2.0 * N, 4.0
    stage = stages(
        {0: [1.0], 1: [1.0]},
        samples_per_insert=ratio,
        samples_per_insert_tolerance=tolerance,
        replay_capacity=100_000,
        prefetch_batches=2,
    )
    rng = np.random.default_rng(seed)
    trained = 0
    waiting = dict.fromkeys(stage.servers, False)
    for _ in range(600):
        number = int(rng.random() < 0.1)
        server = stage.servers[number]
        waiting[number] = bool(server.table._waiting)
        if not waiting[number]:
            server.insert()
        for batch in stage.turn():
            stage.done(batch)
            trained += 1
        for each in stage.servers.values():
            error = each.table.limiter.error
            assert -tolerance - 2 * N <= error <= tolerance + ratio * LAYOUT.length
        if all(s.table._waiting for s in stage.servers.values()):
            assert [batch for _ in range(5) for batch in stage.turn()], "nobody may go on"
    inserted = sum(s.table.limiter.inserts for s in stage.servers.values())
    assert trained * N == pytest.approx(ratio * inserted, abs=4 * tolerance + 4 * N)


def test_no_batch_before_all_servers_together_hold_enough(stages: Start) -> None:
    stage = stages({0: [1.0] * 3, 1: []}, min_size_to_sample=16)
    assert [batch for _ in range(5) for batch in stage.turn()] == []
    stage.servers[1].insert()
    assert stage.next().table_size == 16


def test_a_server_whose_actors_wait_is_drawn_from_though_the_others_hold_nothing_yet(
    stages: Start,
) -> None:
    """All actors are at server 0, whose band ends before it holds what all together are to hold."""
    stage = stages(
        {0: [], 1: []},
        samples_per_insert=8.0,
        samples_per_insert_tolerance=4.0 * N,
        min_size_to_sample=300,
        replay_capacity=10_000,
    )
    server, trained = stage.servers[0], 0
    for _ in range(400):
        if not server.table._waiting:
            server.insert()
        for batch in stage.turn():
            stage.done(batch)
            trained += 1
    assert trained > 10
    assert server.table.limiter.inserts >= 300


def test_a_server_that_is_silent_is_left_out_until_it_answers(stages: Start) -> None:
    stage = stages({0: [1.0, 1.0], 1: [1.0, 1.0]}, prefetch_batches=2)
    stage.done(stage.next())
    stage.now_s += PATIENCE_S
    alone = stage.next(1)
    assert {server for server, _ in items(alone)} <= {0, 1}
    stage.done(alone)
    for _ in range(3):
        batch = stage.next(1)
        assert {server for server, _ in items(batch)} == {0}
        stage.done(batch)
    # It wakes: what it had to give is not wanted any more, but now it counts again.
    for _ in range(6):
        batch = stage.next()
        stage.done(batch)
    assert {server for server, _ in items(batch)} == {0, 1}


def test_a_server_that_is_gone_takes_only_its_experience_with_it(stages: Start) -> None:
    stage = stages({0: [1.0, 1.0], 1: [1.0, 1.0, 1.0]}, prefetch_batches=2)
    first = stage.next()
    assert first.inserted == {0: 8, 1: 12}
    stage.done(first)
    stage.batches.follow({0: stage.servers[0].serving})
    for _ in range(4):
        batch = stage.next(1)
        stage.done(batch)
    assert {server for server, _ in items(batch)} == {0}
    # What it had inserted was inserted all the same.
    assert batch.inserted == {0: 8, 1: 12}
    assert batch.table_size == 8
    # It comes back with its blocks: they are not counted anew.
    stage.batches.follow({n: server.serving for n, server in stage.servers.items()})
    for _ in range(6):
        batch = stage.next()
        assert batch.inserted == {0: 8, 1: 12}
        stage.done(batch)
    assert {server for server, _ in items(batch)} == {0, 1}


def test_a_server_that_came_back_empty_owes_its_rows_to_the_others(stages: Start) -> None:
    stage = stages({0: [1.0, 1.0], 1: [1.0, 1.0]}, prefetch_batches=1)
    stage.done(stage.next())
    stage.servers[1].table = build_table(Manifest("run", stage.config, SPEC), None)
    for _ in range(3):
        batch = stage.next()
        stage.done(batch)
    assert {server for server, _ in items(batch)} == {0}
    assert batch.table_size == 8


def test_when_all_came_back_empty_it_goes_on_once_they_hold_something(stages: Start) -> None:
    stage = stages({0: [1.0], 1: [1.0]}, prefetch_batches=3)
    # With this the learner knows what there is, and asks for all batches that it may have.
    assert stage.turn() == []
    for server in stage.servers.values():
        server.table = build_table(Manifest("run", stage.config, SPEC), None)
    assert [batch for _ in range(5) for batch in stage.turn()] == []
    for server in stage.servers.values():
        server.blocks = 0
        server.insert()
    for _ in range(3):
        batch = stage.next()
        stage.done(batch)
    assert batch.table_size == 8


def test_when_all_are_silent_nothing_is_lost_and_it_goes_on_with_whoever_comes_first(
    stages: Start,
) -> None:
    stage = stages({0: [1.0], 1: [1.0]}, prefetch_batches=3)
    stage.done(stage.next())
    for _ in range(3):
        stage.now_s += PATIENCE_S
        list(stage.turn(0, 1))
    seen = 0
    for _ in range(20):
        for batch in stage.turn(1):
            stage.done(batch)
            seen += 1
    assert seen >= 10


def test_a_rejection_names_the_server(stages: Start) -> None:
    stage = stages({0: [1.0], 1: [1.0]})
    stage.next()
    server = stage.servers[1]
    stage.done(stage.next())
    frames = transport.receive_frames(server.socket)
    assert frames is not None
    server.send(bytes(frames[0]), Rejected(-1, -1, "no such thing"))
    with pytest.raises(WireError, match="replay server 1 rejected a request: no such thing"):
        list(stage.batches.receive())


def test_rows_that_end_an_episode_are_never_drawn(stages: Start) -> None:
    stage = stages({0: [1.0], 1: []})
    ended = insert([[RowKind.TERMINATED] * LAYOUT.rows], session=1)
    stage.servers[1].table.handle(b"actor", ended, 0.0)
    batch = stage.next()
    assert {server for server, _ in items(batch)} == {0}
