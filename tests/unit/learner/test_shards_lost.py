"""Batches of several servers, of which one is silent, gone or came back empty."""

from learner.shards import PATIENCE_S
from tests.unit.learner.sharding import Start, items


def test_a_server_that_is_silent_is_left_out_until_it_answers(shards: Start) -> None:
    stage = shards({0: [1.0, 1.0], 1: [1.0, 1.0]}, prefetch_batches=2)
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


def test_a_server_that_is_gone_takes_only_its_experience_with_it(shards: Start) -> None:
    stage = shards({0: [1.0, 1.0], 1: [1.0, 1.0, 1.0]}, prefetch_batches=2)
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


def test_a_server_that_is_elsewhere_now_is_drawn_from_there(shards: Start) -> None:
    stage = shards({0: [1.0, 1.0], 1: [1.0, 1.0]}, prefetch_batches=2)
    stage.done(stage.next())
    stage.servers[1].move()
    stage.batches.follow({n: server.serving for n, server in stage.servers.items()})
    for _ in range(6):
        batch = stage.next()
        stage.done(batch)
    assert {server for server, _ in items(batch)} == {0, 1}
    assert batch.inserted == {0: 8, 1: 8}


def test_a_server_that_came_back_empty_owes_its_rows_to_the_others(shards: Start) -> None:
    stage = shards({0: [1.0, 1.0], 1: [1.0, 1.0]}, prefetch_batches=1)
    stage.done(stage.next())
    stage.servers[1].start_again(empty=True)
    for _ in range(3):
        batch = stage.next()
        stage.done(batch)
    assert {server for server, _ in items(batch)} == {0}
    assert batch.table_size == 8


def test_a_server_that_was_empty_is_drawn_from_once_it_holds_something(shards: Start) -> None:
    stage = shards({0: [1.0], 1: []}, prefetch_batches=2)
    for _ in range(4):
        # The other one is behind nothing, so that the learner never has to wait.
        stage.done(stage.next())
    stage.servers[1].insert()
    for _ in range(6):
        batch = stage.next()
        stage.done(batch)
    assert {server for server, _ in items(batch)} == {0, 1}
    assert batch.inserted == {0: 4, 1: 4}


def test_a_server_whose_connection_is_broken_is_asked_nothing_meanwhile(shards: Start) -> None:
    stage = shards({0: [1.0], 1: [1.0]}, prefetch_batches=2)
    stage.done(stage.next())
    stage.servers[1].answer()
    watch, heard = stage.batches._shards[1].link.watch, stage.servers[1].heard
    watch._lost_s = stage.now_s
    asked = len(heard)
    stage.turn(0)
    # The one that is left does not answer: the learner waits.
    stage.now_s += PATIENCE_S
    for _ in range(20):
        stage.turn(0)
    assert len(heard) == asked
    watch._lost_s = None
    for _ in range(6):
        batch = stage.next()
        stage.done(batch)
    assert {server for server, _ in items(batch)} == {0, 1}


def test_when_all_came_back_empty_it_goes_on_once_they_hold_something(shards: Start) -> None:
    stage = shards({0: [1.0], 1: [1.0]}, prefetch_batches=3)
    # With this the learner knows what there is, and asks for all batches that it may have.
    assert stage.turn() == []
    for server in stage.servers.values():
        server.start_again(empty=True)
    assert [batch for _ in range(5) for batch in stage.turn()] == []
    for server in stage.servers.values():
        server.insert()
    for _ in range(3):
        batch = stage.next()
        stage.done(batch)
    assert batch.table_size == 8


def test_when_all_are_silent_nothing_is_lost_and_it_goes_on_with_whoever_comes_first(
    shards: Start,
) -> None:
    stage = shards({0: [1.0], 1: [1.0]}, prefetch_batches=3)
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
