"""What any feed does, by wire and by shared memory, against a server in the test's hands."""

import threading
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch

from common.config import Config
from common.errors import WireError
from common.manifest import Manifest
from common.messages import Rejected, Serving
from common.rejections import Rejections
from common.spec import EnvSpec
from learner import feed
from learner.feed import INLINE_BYTES, InlineFeed, Prefetcher, open_feed
from learner.update import TrainBatch
from tests.unit.learner.feeding import (
    BATCHES,
    SPEC,
    Context,
    Kind,
    N,
    Start,
    assert_is,
    batch,
    inline_feed,
    prefetcher,
    priority,
)
from tests.waiting import wait_until


def test_batches_come_whole_and_in_order(stages: Start) -> None:
    stage = stages(prefetch_batches=3)
    request = stage.request()
    assert (request.batches, len(request.key), len(request.priority)) == (3, 0, 0)
    for number in (1, 2, 3):
        stage.answer(number)
    for number in (1, 2, 3):
        assert_is(stage.next(), number)
    assert stage.feed.next(0.0) is None
    assert stage.nothing_more()


def test_a_batch_in_training_is_not_written_over(stages: Start) -> None:
    stage = stages(prefetch_batches=2)
    stage.request()
    stage.answer(1)
    in_training = stage.next()
    for number in range(2, 8):
        stage.answer(number)
        other = stage.next()
        assert_is(other, number)
        assert_is(in_training, 1)
        stage.feed.done(other, priority(number))
        stage.request()


def test_priorities_ride_home_with_their_keys_and_ask_for_another_batch(stages: Start) -> None:
    stage = stages(prefetch_batches=2)
    stage.request()
    stage.answer(1)
    stage.answer(2)
    got = {1: stage.next(), 2: stage.next()}
    for number in (2, 1):  # The order in which they came does not matter.
        stage.feed.done(got[number], priority(number))
        request = stage.request()
        assert request.batches == 1
        assert request.key.tolist() == batch(number).key.tolist()
        assert request.priority.tolist() == priority(number).tolist()
    assert stage.nothing_more()


def test_half_of_the_credit_goes_home_at_once_and_sooner_when_the_learner_waits(
    stages: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "POLL_MS", 3_600_000)  # Nothing goes by itself.
    stage = stages(prefetch_batches=4)
    stage.request()
    for number in range(4):
        stage.answer(number)
    got = [stage.next() for _ in range(4)]

    stage.feed.done(got[0], priority(0))
    stage.feed.done(got[1], priority(1))
    request = stage.request()
    assert request.batches == 2
    assert request.key.tolist() == [*batch(0).key.tolist(), *batch(1).key.tolist()]
    assert request.priority.tolist() == [*priority(0).tolist(), *priority(1).tolist()]

    stage.feed.done(got[2], priority(2))
    assert stage.feed.next(timeout_s=0.0) is None
    request = stage.request()
    assert request.batches == 1
    assert request.key.tolist() == batch(2).key.tolist()


@pytest.mark.parametrize(
    ("kind", "credit"),
    [(prefetcher, 1), (prefetcher, 3), (prefetcher, 5), (inline_feed, 1), (inline_feed, 3)],
)
def test_requested_ready_and_in_training_are_never_more_than_the_credit(
    stages: Start, credit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any order of sending, taking and finishing; what was asked for is counted at the server."""
    monkeypatch.setattr(feed, "POLL_MS", 1)  # Each that is finished goes home by itself.
    rng = np.random.default_rng(credit)
    stage = stages(prefetch_batches=credit)
    stage.request()
    sent = taken = done = 0
    in_training: list[TrainBatch] = []
    while done < 40:
        moves = {
            "send": sent < stage.asked,
            "take": taken < sent,
            "finish": bool(in_training),
        }
        move = rng.choice([name for name, possible in moves.items() if possible])
        if move == "send":
            sent += 1
            stage.answer(sent % BATCHES)
        elif move == "take":
            taken += 1
            in_training.append(stage.next())
            assert_is(in_training[-1], taken % BATCHES)
        else:
            finished = in_training.pop(int(rng.integers(len(in_training))))
            stage.feed.done(finished, priority(done))
            done += 1
            assert stage.request().batches == 1
        requested, ready = stage.asked - sent, sent - taken
        assert requested + ready + len(in_training) == credit
    # No request went by unheard: the first one, and one for each batch that was used up.
    assert stage.nothing_more()
    assert stage.asked == credit + done


def test_importance_weights_are_staged(stages: Start) -> None:
    stage = stages(importance_sampling_exponent=0.5)
    stage.request()
    stage.answer(1)
    # (N·p)^−½ of N·p = 1/4, 1, 4 and 16 is 2, 1, 1/2 and 1/4; over the largest of them:
    assert stage.next().weight.tolist() == [1.0, 0.5, 0.25, 0.125]


def test_uniform_replay_weighs_all_alike_and_sends_no_priorities(stages: Start) -> None:
    stage = stages(prioritized=False, importance_sampling_exponent=0.5)
    stage.request()
    stage.answer(1)
    got = stage.next()
    assert got.weight.tolist() == [1.0] * N
    stage.feed.done(got, priority(1))
    request = stage.request()
    assert (request.batches, len(request.key), len(request.priority)) == (1, 0, 0)


def test_a_server_that_is_elsewhere_now_is_asked_for_what_its_predecessor_owed(
    stages: Start,
) -> None:
    stage = stages(prefetch_batches=3)
    assert stage.request().batches == 3
    stage.answer(1)
    in_training = stage.next()
    for _ in range(2):
        stage.move()
        assert stage.request().batches == 2
    for number in (2, 3):
        stage.answer(number)
        assert_is(stage.next(), number)
    stage.feed.done(in_training, priority(1))
    assert stage.request().batches == 1
    assert stage.nothing_more()


@pytest.mark.parametrize("path", ["shared memory"], indirect=True)
def test_what_was_overwritten_at_its_predecessor_stays_counted(stages: Start) -> None:
    stage = stages(prefetch_batches=1)
    stage.request()
    stage.answer(BATCHES)  # Whose block is not there.
    feed = stage.feed
    wait_until(lambda: feed.next(0.01) is None and feed.overwritten == N, "it is counted")
    assert stage.request().batches == 1
    stage.move()
    assert stage.request().batches == 1
    assert feed.overwritten == N


@pytest.mark.parametrize("state", ["waiting", "ready", "failed"])
def test_close_ends_all_threads(stages: Start, state: str) -> None:
    before = set(threading.enumerate())
    stage = stages()
    stage.request()
    if state == "ready":
        stage.answer(1)
        stage.next()
    if state == "failed":
        stage.send(Rejected(-1, -1, ""))
        with pytest.raises(WireError):
            stage.next()
    stage.end()
    assert set(threading.enumerate()) <= before


def test_close_does_not_wait_for_a_server_that_never_came(context: Context, kind: Kind) -> None:
    manifest = Manifest("run", Config(batch_size=N), SPEC)
    nobody, rejections = (
        Serving(1, "inproc://nobody"),
        Rejections("learner_rejected_messages_total"),
    )
    feed = kind(context, nobody, manifest, torch.device("cpu"), rejections)
    assert feed.next(0.0) is None
    feed.close()


@pytest.mark.parametrize(
    ("frame_bytes", "expected"), [(INLINE_BYTES, InlineFeed), (INLINE_BYTES + 8, Prefetcher)]
)
def test_a_cpu_fetches_small_batches_in_between(
    context: Context, frame_bytes: int, expected: type[Any]
) -> None:
    # Of one transition, two frames.
    spec = EnvSpec((frame_bytes // 8,), "<f4", 2)
    manifest = Manifest("run", Config(batch_size=1, min_size_to_sample=1), spec)
    server = Serving(1, "inproc://nobody")
    with closing(open_feed(context, {0: server}, manifest, torch.device("cpu"))) as feed:
        assert type(feed) is expected
