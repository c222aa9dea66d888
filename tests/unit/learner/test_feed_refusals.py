"""What no feed takes from its server, on either path."""

from typing import Any

import numpy as np
import pytest

from common.errors import MalformedMessage, Reason, WireError
from common.messages import Ack, Rejected
from tests.unit.learner.feeding import N, Start, assert_is, priority
from tests.waiting import wait_until

BAD_DRAWS = {
    "too few probabilities": {"probability": np.ones(1, np.float32)},
    "too few keys": {"key": np.zeros(1, np.int64)},
    "a probability of 0": {"probability": np.array([1, 1, 0, 1], np.float32)},
    "a negative probability": {"probability": np.array([1, -0.5, 1, 1], np.float32)},
    "a probability of NaN": {"probability": np.array([1, 1, 1, np.nan], np.float32)},
    "infinite probabilities": {"probability": np.full(N, np.inf, np.float32)},
    "an empty table": {"table_size": 0},
}
BAD_TRANSITIONS = {
    "frames of another shape": {"frames": np.zeros((N, 2, 3, 2), np.uint8)},
    "frames of another dtype": {"frames": np.zeros((N, 2, 2, 3), np.float32)},
    "too few frames": {"frames": np.zeros((N - 1, 2, 2, 3), np.uint8)},
    "one frame a transition": {"frames": np.zeros((N, 1, 2, 3), np.uint8)},
    "too few shifts": {"shift": np.ones(N - 1, np.uint8)},
    "a shift beyond the frames": {"shift": np.array([1, 1, 2, 1], np.uint8)},
    "too few actions": {"action": np.zeros(N - 1, np.int32)},
    "too many returns": {"n_step_return": np.zeros(N + 1, np.float32)},
    "no discounts": {"discount": np.zeros(0, np.float32)},
    "an action that is none": {"action": np.array([0, 1, 5, 0], np.int32)},
    "a negative action": {"action": np.array([0, -1, 0, 0], np.int32)},
}
"""Sent by wire alone."""


def assert_ends_with(stages: Start, **bad: Any) -> None:
    stage = stages()
    stage.request()
    stage.answer(1, **bad)
    with pytest.raises(MalformedMessage):
        stage.next()
    with pytest.raises(MalformedMessage):
        stage.feed.next(0.0)
    assert stage.rejections.total == 1


@pytest.mark.parametrize("bad", BAD_DRAWS.values(), ids=BAD_DRAWS)
def test_a_draw_that_breaks_the_contract_ends_it(stages: Start, bad: dict[str, Any]) -> None:
    assert_ends_with(stages, **bad)


@pytest.mark.parametrize("path", [None], ids=["wire"])
@pytest.mark.parametrize("bad", BAD_TRANSITIONS.values(), ids=BAD_TRANSITIONS)
def test_transitions_that_break_the_contract_end_it(stages: Start, bad: dict[str, Any]) -> None:
    assert_ends_with(stages, **bad)


def test_bytes_that_are_no_message_end_it(stages: Start) -> None:
    stage = stages()
    stage.request()
    stage.send_frames(b"no message")
    with pytest.raises(MalformedMessage):
        stage.next()


def test_a_request_that_is_rejected_ends_it_in_the_servers_words(stages: Start) -> None:
    stage = stages()
    stage.request()
    stage.send(Rejected(-1, -1, "priority is not finite"))
    with pytest.raises(WireError, match="priority is not finite"):
        stage.next()


def test_what_was_not_asked_for_is_ignored_and_counted(stages: Start) -> None:
    stage = stages(prefetch_batches=1)
    stage.request()
    stage.answer(1)
    stage.answer(9)  # One more than there is credit for.
    stage.send(Ack(0, 0))
    got = stage.next()
    assert_is(got, 1)
    counts = stage.rejections.by_reason
    wait_until(lambda: counts[Reason.SEQUENCE] == stage.rejections.total == 2, "both are counted")
    stage.feed.done(got, priority(1))
    assert stage.request().batches == 1
    stage.answer(2)
    assert_is(stage.next(), 2)
    assert stage.nothing_more()
    assert stage.asked == 2
