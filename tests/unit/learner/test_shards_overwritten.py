"""Batches of several servers whose storages are read while they are written."""

import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.errors import ConfigError
from common.trace import NO_TRACE
from learner.shards import ShardedBatches
from tests.experience import LAYOUT
from tests.unit.learner.sharding import Context, N, Stage, Start, items

pytestmark = pytest.mark.parametrize("path", ["shared memory"], indirect=True)

FOUR = [8.0, 1.0, 1.0, 1.0]
FULL = {0: [1.0] * 4, 1: FOUR}
"""Four blocks in each of two servers, which hold no more."""


def asked(shards: Start) -> Stage:
    """It knows what there is, and has asked for a batch."""
    stage = shards(FULL, replay_capacity=N, prefetch_batches=1)
    assert stage.turn() == []
    return stage


def rows_of(stage: Stage) -> dict[int, int]:
    """In the newest answer of each server."""
    return {number: len(server.said[-1].key) for number, server in stage.servers.items()}


def test_stand_ins_come_from_the_same_server_with_weights_of_their_own(shards: Start) -> None:
    stage = asked(shards)
    server = stage.servers[1]
    before = stage.probability()
    # Block 5 takes the place of block 1, of which most was drawn.
    (batch,) = stage.turn(meanwhile=server.insert)
    evicted = int(np.count_nonzero(server.said[-1].key < 2 * LAYOUT.length))
    assert 0 < evicted < rows_of(stage)[1]
    assert stage.batches.overwritten == evicted
    found = items(batch)
    assert Counter(number for number, _ in found) == rows_of(stage)
    assert all(key >= 2 * LAYOUT.length for number, key in found if number == 1)
    # As they were drawn: the table has another mass since.
    weight = np.array([(N * before[item]) ** -0.5 for item in found])
    np.testing.assert_allclose(batch.weight.numpy(), weight / weight.max(), rtol=1e-5)
    # Priorities go to those that stood in, where they came from.
    stage.done(batch)
    stage.turn()
    for each in stage.servers.values():
        assert each.table.counters.updates > 0
        assert each.table.counters.stale_updates == 0


def test_rows_of_which_nothing_is_left_are_drawn_anew_from_all_servers(shards: Start) -> None:
    stage = asked(shards)
    server = stage.servers[1]

    def evict() -> None:
        for priority in FOUR:
            server.insert(priority)

    assert stage.turn(meanwhile=evict) == []
    lost = rows_of(stage)[1]
    assert stage.batches.overwritten == lost > 0
    (batch,) = stage.turn()
    assert sum(rows_of(stage).values()) == lost
    assert min(rows_of(stage).values()) > 0
    assert stage.batches.overwritten == lost
    found = items(batch)
    assert all(key > 4 * LAYOUT.length for number, key in found if number == 1)
    # The new blocks weigh what the old ones did.
    expected = stage.weights_of_one_table(found)
    np.testing.assert_allclose(batch.weight.numpy(), expected, rtol=1e-5)
    stage.done(batch)
    stage.turn()
    assert [s.table.counters.stale_updates for s in stage.servers.values()] == [0, 0]


def test_what_was_overwritten_at_a_server_that_is_gone_stays_counted(shards: Start) -> None:
    stage = asked(shards)
    stage.turn(meanwhile=stage.servers[1].insert)
    overwritten = stage.batches.overwritten
    assert overwritten > 0
    stage.batches.follow({0: stage.servers[0].serving})
    assert stage.batches.overwritten == overwritten


def test_a_server_that_starts_again_over_its_file_is_read_on(shards: Start) -> None:
    stage = asked(shards)
    stage.servers[1].start_again(empty=False)
    for _ in range(3):
        batch = stage.next()
        assert {number for number, _ in items(batch)} == {0, 1}
        stage.done(batch)
    assert [server.heard[-1].keys_only for server in stage.servers.values()] == [True, True]
    assert stage.batches.overwritten == 0


def test_a_server_with_a_new_file_in_the_place_of_its_old_one_is_read_on(
    shards: Start, caplog: pytest.LogCaptureFixture
) -> None:
    stage = asked(shards)
    server = stage.servers[1]
    server.start_again(empty=True)
    for priority in FOUR:
        server.insert(priority)
    with caplog.at_level(logging.WARNING, "learner"):
        for _ in range(3):
            batch = stage.next()
            assert {number for number, _ in items(batch)} == {0, 1}
            stage.done(batch)
    assert [server.heard[-1].keys_only for server in stage.servers.values()] == [True, True]
    assert caplog.messages == ["the replay server has another storage now"]


def test_who_insists_on_shared_memory_is_told_of_a_server_without_and_leaves_nothing_open(
    shards: Start, context: Context
) -> None:
    stage = shards(FULL, replay_link="shared_memory")
    serving = {number: server.serving for number, server in stage.servers.items()}
    serving[1] = replace(serving[1], storage="")
    with pytest.raises(ConfigError, match="replay_link = shared_memory is not possible"):
        ShardedBatches(context, serving, stage.run, torch.device("cpu"), NO_TRACE)
