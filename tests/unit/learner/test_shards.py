"""Batches of several servers against one big table, by wire and by shared memory."""

from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from common import codec, transport
from common.blocks import RowKind
from common.errors import WireError
from common.manifest import Manifest
from common.messages import Ack, Drawn, PartRequest, Rejected, Serving
from learner.shard import Shard
from tests.experience import LAYOUT, SPEC, insert
from tests.unit.learner.sharding import Context, N, Start, config, items, version_of

UNEQUAL = {0: [0.5, 1.0, 0.2], 1: [8.0], 2: [0.1, 0.1]}
"""Six blocks on three servers, of which the one with the fewest has the most to learn from."""


@pytest.mark.parametrize("prioritized", [True, False])
def test_transitions_are_drawn_as_often_as_from_one_big_table(
    shards: Start, prioritized: bool
) -> None:
    stage = shards(UNEQUAL, prioritized=prioritized)
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


def test_weights_are_those_of_one_big_table(shards: Start) -> None:
    stage = shards(UNEQUAL)
    batch = stage.next()
    assert batch.table_size == len(stage.probability()) == 24
    expected = stage.weights_of_one_table(items(batch))
    np.testing.assert_allclose(batch.weight.numpy(), expected, rtol=1e-5)


def test_the_version_that_acted_is_the_mean_over_all_rows(shards: Start) -> None:
    batch = shards(UNEQUAL).next()
    versions = [version_of(server, key // LAYOUT.length) for server, key in items(batch)]
    assert batch.mean_version == pytest.approx(np.mean(versions))


def test_priorities_go_back_to_the_server_that_each_transition_came_from(shards: Start) -> None:
    stage = shards(UNEQUAL)
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


def test_each_batch_is_counted_once_by_the_server_that_is_farthest_behind(shards: Start) -> None:
    stage = shards({0: [1.0] * 30, 1: [1.0] * 10}, samples_per_insert=8.0, prefetch_batches=1)
    for _ in range(30):
        stage.done(stage.next())
    # As far as either has something to give, they stay equally far behind.
    errors = [server.table.limiter.error for server in stage.servers.values()]
    assert abs(errors[0] - errors[1]) <= N
    batch = stage.next()
    assert batch.inserted == {n: s.table.limiter.inserts for n, s in stage.servers.items()}
    counted = sum(request.counted for s in stage.servers.values() for request in s.heard)
    assert batch.sampled == counted == 31 * N


def test_what_a_server_is_yet_to_count_counts_already(context: Context) -> None:
    run = Manifest("run", config(), SPEC)
    shard = Shard(context, 0, Serving(1, "inproc://nobody"), run)
    with closing(shard.link):
        for request in (1, 2, 3):
            shard.ask(None, 0.0, N, 0.0)
            assert shard.limiter.samples == request * N
        nothing = np.empty(0, np.float32), np.empty(0, np.int64)
        # The first answer was lost.
        shard.answered(Drawn(0, 8, 500, 1_000, 1.0, 2, *nothing))
        assert list(shard.asked) == [3]
        assert (shard.limiter.inserts, shard.limiter.samples) == (500, 1_000 + N)


@pytest.mark.parametrize("seed", range(5))
def test_neither_side_waits_for_the_other_for_ever_however_unevenly_actors_insert(
    shards: Start, seed: int
) -> None:
    """Actors of one server insert far more often; none is ever kept waiting while the learner may
    not go on either, and each server's error stays in its band."""
    tolerance, ratio = 2.0 * N, 4.0
    stage = shards(
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


def test_no_batch_before_all_servers_together_hold_enough(shards: Start) -> None:
    stage = shards({0: [1.0] * 3, 1: []}, min_size_to_sample=16)
    assert [batch for _ in range(5) for batch in stage.turn()] == []
    stage.servers[1].insert()
    assert stage.next().table_size == 16


def test_a_server_whose_actors_wait_is_drawn_from_though_the_others_hold_nothing_yet(
    shards: Start,
) -> None:
    """All actors are at server 0, whose band ends before it holds what all together are to hold."""
    stage = shards(
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


def test_a_rejection_names_the_server(shards: Start) -> None:
    stage = shards({0: [1.0], 1: [1.0]})
    stage.next()
    server = stage.servers[1]
    stage.done(stage.next())
    frames = transport.receive_frames(server.socket)
    assert frames is not None
    server.send(bytes(frames[0]), Rejected(-1, -1, "no such thing"))
    with pytest.raises(WireError, match="replay server 1 rejected a request: no such thing"):
        list(stage.batches.receive())
    assert stage.rejections.total == 1


def test_what_nobody_asked_for_is_counted_and_has_a_line_a_second(
    shards: Start, caplog: pytest.LogCaptureFixture
) -> None:
    stage = shards({0: [1.0], 1: [1.0]})
    server = stage.servers[1]
    frames = transport.receive_frames(server.socket)
    assert frames is not None
    for sequence in range(1_000):
        server.send(bytes(frames[0]), Ack(1, sequence))
        assert list(stage.batches.receive()) == []
    assert stage.rejections.values()["learner_rejected_messages_total.sequence"] == 1_000
    assert caplog.messages == ["rejected a message (sequence): a ack that was not asked for"]


def test_more_rows_than_were_asked_of_a_server_take_no_others_place(shards: Start) -> None:
    stage = shards({0: [1.0], 1: [1.0]}, prefetch_batches=1)
    assert stage.turn() == []
    server = stage.servers[0]
    frames = transport.receive_frames(server.socket)
    assert frames is not None
    request = codec.decode(frames[1:])
    assert isinstance(request, PartRequest)
    more = replace(request, rows=request.rows + 1)
    ((peer, reply),) = server.table.replies(bytes(frames[0]), more, 0.0)
    server.send(peer, reply)
    # Its rows are asked for once more.
    batch = stage.next()
    assert {server for server, _ in items(batch)} == {0, 1}


def test_rows_that_end_an_episode_are_never_drawn(shards: Start) -> None:
    stage = shards({0: [1.0], 1: []})
    ended = insert([[RowKind.TERMINATED] * LAYOUT.rows], session=1)
    stage.servers[1].table.handle(b"actor", ended, 0.0)
    batch = stage.next()
    assert {server for server, _ in items(batch)} == {0}
