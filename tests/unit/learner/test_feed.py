"""Both feeds against a replay server that the test has in its hands."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import zmq

from common import transport
from common.config import Config
from common.errors import MalformedMessage, Reason, WireError
from common.manifest import Manifest
from common.messages import Ack, Batch, Message, Rejected, SampleRequest, Serving
from common.rejections import Rejections
from common.spec import EnvSpec
from common.trace import NO_TRACE
from learner import feed
from learner.batches import Batches
from learner.feed import INLINE_BYTES, Feed, InlineFeed, Prefetcher, open_feed
from learner.update import TrainBatch
from tests.contract.sockets import receive_with_prefix
from tests.waiting import wait_until

SPEC = EnvSpec((2, 3), "|u1", 5)
N = 4
Kind = Callable[
    [zmq.Context[zmq.Socket[bytes]], Serving, Manifest, torch.device, Rejections],
    Prefetcher | InlineFeed,
]


def prefetcher(
    context: zmq.Context[zmq.Socket[bytes]],
    server: Serving,
    manifest: Manifest,
    device: torch.device,
    rejections: Rejections,
) -> Prefetcher:
    batches = Batches(context, server, manifest, device, NO_TRACE, rejections)
    return Prefetcher(batches, context)


def inline_feed(
    context: zmq.Context[zmq.Socket[bytes]],
    server: Serving,
    manifest: Manifest,
    device: torch.device,
    rejections: Rejections,
) -> InlineFeed:
    return InlineFeed(Batches(context, server, manifest, device, NO_TRACE, rejections))


def batch(number: int = 0) -> Batch:
    """A batch whose every array tells its number. N·p = 1/4, 1, 4 and 16."""
    frames = np.zeros((N, 2, *SPEC.obs_shape), np.uint8)
    frames[:, 0], frames[:, 1] = 10 * number, 10 * number + 1
    return Batch(
        table_size=16,
        inserted=100 + number,
        sampled=4 * number,
        mass=1.0,
        request=0,
        mean_version=number / 2,
        frames=frames,
        shift=np.ones(N, np.uint8),
        action=np.arange(N, dtype=np.int32),
        n_step_return=np.full(N, number, np.float32),
        discount=np.array([0.5, 0.0, 0.25, 1.0], np.float32),
        probability=np.array([1 / 64, 1 / 16, 1 / 4, 1.0], np.float32),
        key=1_000 * number + np.arange(N),
    )


def priority(number: int) -> Any:
    return np.arange(N, dtype=np.float32) + np.float32(number)


class Stage:
    """A feed and the replay server that it talks to; counts the batches asked of it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], kind: Kind, **changes: Any) -> None:
        config = Config(**{"batch_size": N, "prefetch_batches": 3, **changes})
        self._socket, endpoint = transport.bind(context, zmq.ROUTER, "inproc://replay")
        self.rejections = Rejections("learner_rejected_messages_total")
        self.feed: Feed = kind(
            context,
            Serving(1, endpoint),
            Manifest("run", config, SPEC),
            torch.device("cpu"),
            self.rejections,
        )
        self._ended = False
        self._peer = b""
        self.asked = 0
        """Batches, in all requests so far."""

    def request(self) -> SampleRequest:
        """The next request, which must come."""
        self._peer, message = receive_with_prefix(self._socket)
        assert isinstance(message, SampleRequest)
        self.asked += message.batches
        return message

    def nothing_more(self) -> bool:
        """Whether everything that the feed ever sent has been heard. Ends it."""
        self.end()
        return not transport.has_message(self._socket)

    def send(self, message: Message) -> None:
        assert transport.send(self._socket, message, prefix=(self._peer,))

    def send_frames(self, *frames: bytes) -> None:
        self._socket.send_multipart((self._peer, *frames))

    def next(self) -> TrainBatch:
        """The next batch, which must come; or what ended the thread, raised."""
        found = wait_until(lambda: self.feed.next(0.01), "a batch is ready")
        assert found is not None
        return found

    def end(self) -> None:
        if not self._ended:
            self.feed.close()
            self._ended = True

    def close(self) -> None:
        self.end()
        self._socket.close(linger=0)


Start = Callable[..., Stage]


@pytest.fixture(params=[prefetcher, inline_feed])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    # Its end waits for every socket to be closed.
    with zmq.Context() as context:
        yield context


@pytest.fixture
def stages(context: zmq.Context[zmq.Socket[bytes]], kind: Kind) -> Iterator[Start]:
    """Starts the one stage of a test, with changes of the configuration."""
    with ExitStack() as ends:
        yield lambda **changes: ends.enter_context(closing(Stage(context, kind, **changes)))


def assert_is(got: TrainBatch, number: int) -> None:
    """The batch of that number, as the replay server sent it."""
    sent = batch(number)
    for name in ("frames", "n_step_return", "discount"):
        tensor, array = getattr(got, name).numpy(), getattr(sent, name)
        assert tensor.dtype == array.dtype
        np.testing.assert_array_equal(tensor, array, name)
    for name in ("shift", "action"):
        assert getattr(got, name).dtype == torch.int64
        assert getattr(got, name).tolist() == getattr(sent, name).tolist()
    assert got.key.tolist() == sent.key.tolist()
    assert got.inserted == {0: sent.inserted}
    for name in ("table_size", "sampled", "mean_version"):
        assert getattr(got, name) == getattr(sent, name)


def test_batches_come_whole_and_in_order(stages: Start) -> None:
    stage = stages(prefetch_batches=3)
    request = stage.request()
    assert (request.batches, len(request.key), len(request.priority)) == (3, 0, 0)
    for number in (1, 2, 3):
        stage.send(batch(number))
    for number in (1, 2, 3):
        assert_is(stage.next(), number)
    assert stage.feed.next(0.0) is None
    assert stage.nothing_more()


def test_a_batch_in_training_is_not_written_over(stages: Start) -> None:
    stage = stages(prefetch_batches=2)
    stage.request()
    stage.send(batch(1))
    in_training = stage.next()
    for number in range(2, 8):
        stage.send(batch(number))
        other = stage.next()
        assert_is(other, number)
        assert_is(in_training, 1)
        stage.feed.done(other, priority(number))
        stage.request()


def test_priorities_ride_home_with_their_keys_and_ask_for_another_batch(stages: Start) -> None:
    stage = stages(prefetch_batches=2)
    stage.request()
    stage.send(batch(1))
    stage.send(batch(2))
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
        stage.send(batch(number))
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
    stages: Start, credit: int
) -> None:
    """Any order of sending, taking and finishing; what was asked for is counted at the server."""
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
            stage.send(batch(sent % 20))
        elif move == "take":
            taken += 1
            in_training.append(stage.next())
            assert_is(in_training[-1], taken % 20)
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
    stage.send(batch(1))
    # (N·p)^−½ of N·p = 1/4, 1, 4 and 16 is 2, 1, 1/2 and 1/4; over the largest of them:
    assert stage.next().weight.tolist() == [1.0, 0.5, 0.25, 0.125]


def test_uniform_replay_weighs_all_alike_and_sends_no_priorities(stages: Start) -> None:
    stage = stages(prioritized=False, importance_sampling_exponent=0.5)
    stage.request()
    stage.send(batch(1))
    got = stage.next()
    assert got.weight.tolist() == [1.0] * N
    stage.feed.done(got, priority(1))
    request = stage.request()
    assert (request.batches, len(request.key), len(request.priority)) == (1, 0, 0)


def changed(**changes: Any) -> Batch:
    return replace(batch(1), **changes)


BAD_BATCHES = {
    "frames of another shape": changed(frames=np.zeros((N, 2, 3, 2), np.uint8)),
    "frames of another dtype": changed(frames=np.zeros((N, 2, 2, 3), np.float32)),
    "too few frames": changed(frames=np.zeros((N - 1, 2, 2, 3), np.uint8)),
    "one frame a transition": changed(frames=np.zeros((N, 1, 2, 3), np.uint8)),
    "too few shifts": changed(shift=np.ones(N - 1, np.uint8)),
    "a shift beyond the frames": changed(shift=np.array([1, 1, 2, 1], np.uint8)),
    "too few actions": changed(action=np.zeros(N - 1, np.int32)),
    "too many returns": changed(n_step_return=np.zeros(N + 1, np.float32)),
    "no discounts": changed(discount=np.zeros(0, np.float32)),
    "too few probabilities": changed(probability=np.ones(1, np.float32)),
    "too few keys": changed(key=np.zeros(1, np.int64)),
    "a probability of 0": changed(probability=np.array([1, 1, 0, 1], np.float32)),
    "a negative probability": changed(probability=np.array([1, -0.5, 1, 1], np.float32)),
    "a probability of NaN": changed(probability=np.array([1, 1, 1, np.nan], np.float32)),
    "infinite probabilities": changed(probability=np.full(N, np.inf, np.float32)),
    "an empty table": changed(table_size=0),
    "an action that is none": changed(action=np.array([0, 1, 5, 0], np.int32)),
    "a negative action": changed(action=np.array([0, -1, 0, 0], np.int32)),
}


@pytest.mark.parametrize("bad", BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_a_batch_that_breaks_the_contract_ends_it(stages: Start, bad: Batch) -> None:
    stage = stages()
    stage.request()
    stage.send(bad)
    with pytest.raises(MalformedMessage):
        stage.next()
    with pytest.raises(MalformedMessage):
        stage.feed.next(0.0)


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
    stage.send(batch(1))
    stage.send(batch(9))  # One more than there is credit for.
    stage.send(Ack(0, 0))
    got = stage.next()
    assert_is(got, 1)
    counts = stage.rejections.by_reason
    wait_until(lambda: counts[Reason.SEQUENCE] == stage.rejections.total == 2, "both are counted")
    stage.feed.done(got, priority(1))
    assert stage.request().batches == 1
    stage.send(batch(2))
    assert_is(stage.next(), 2)
    assert stage.nothing_more()
    assert stage.asked == 2


@pytest.mark.parametrize("state", ["waiting", "ready", "failed"])
def test_close_ends_all_threads(stages: Start, state: str) -> None:
    before = set(threading.enumerate())
    stage = stages()
    stage.request()
    if state == "ready":
        stage.send(batch(1))
        stage.next()
    if state == "failed":
        stage.send(Rejected(-1, -1, ""))
        with pytest.raises(WireError):
            stage.next()
    stage.end()
    assert set(threading.enumerate()) <= before


def test_close_does_not_wait_for_a_server_that_never_came(
    context: zmq.Context[zmq.Socket[bytes]], kind: Kind
) -> None:
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
    context: zmq.Context[zmq.Socket[bytes]], frame_bytes: int, expected: type[Any]
) -> None:
    # Of one transition, two frames.
    spec = EnvSpec((frame_bytes // 8,), "<f4", 2)
    manifest = Manifest("run", Config(batch_size=1, min_size_to_sample=1), spec)
    server = Serving(1, "inproc://nobody")
    with closing(open_feed(context, {0: server}, manifest, torch.device("cpu"))) as feed:
        assert type(feed) is expected
