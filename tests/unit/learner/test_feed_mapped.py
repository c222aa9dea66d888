"""The prefetcher beside a replay server on its own host: keys come by wire, transitions do not."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zmq

from common import transport
from common.errors import ConfigError, MalformedMessage, Reason
from common.manifest import Manifest
from common.messages import Batch, Drawn, Message, SampleRequest, Serving
from common.process import machine_id
from common.rejections import Rejections
from common.trace import NO_TRACE
from learner.batches import Batches
from learner.feed import Prefetcher
from learner.update import TrainBatch
from replay_server.server import build_table
from tests.contract.sockets import receive_with_prefix
from tests.experience import insert, steps, transitions
from tests.unit.learner.storages import LENGTH, SLOTS, N, manifest
from tests.waiting import wait_until

CREDIT = 2


class Stage:
    """A prefetcher and the table that it is served from, one message after the other."""

    def __init__(self, path: Path | None, run: Manifest) -> None:
        self.run = run
        self.table = build_table(run, path)
        self.sent = 0
        """Blocks inserted, each an insert of its own."""
        self.rejections = Rejections("learner_rejected_messages_total")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket, endpoint = transport.bind(self._context, zmq.ROUTER, "inproc://replay")
        self.server = Serving(1, endpoint, machine_id(), "" if path is None else str(path))
        try:
            batches = Batches(
                self._context, self.server, run, torch.device("cpu"), NO_TRACE, self.rejections
            )
            self.feed = Prefetcher(batches, self._context)
        except BaseException:
            self._socket.close()
            self._context.term()
            raise
        self.requests: list[SampleRequest] = []
        self.replies: list[Message] = []

    def insert(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            kinds = steps(1, self.run.layout)
            message = insert(kinds, sequence=self.sent, layout=self.run.layout, spec=self.run.spec)
            self.table.handle(b"actor", message, 0.0)
            self.sent += 1

    def hear(self) -> list[tuple[bytes, Message]]:
        """The table's answers to the next request, which must come. They are not sent yet."""
        peer, message = receive_with_prefix(self._socket)
        assert isinstance(message, SampleRequest)
        self.requests.append(message)
        return self.table.handle(peer, message, 0.0)

    def send(self, replies: list[tuple[bytes, Message]]) -> None:
        for peer, reply in replies:
            assert transport.send(self._socket, reply, prefix=(peer,))
            self.replies.append(reply)

    def sent_batches(self) -> list[tuple[Drawn | Batch, list[int]]]:
        """The message and the keys of each batch that was sent."""
        batches = []
        for reply in self.replies:
            assert isinstance(reply, Drawn | Batch)
            batches += [(reply, key) for key in reply.key.reshape(-1, N).tolist()]
        return batches

    def serve(self) -> list[Message]:
        """Answer the next request."""
        replies = self.hear()
        self.send(replies)
        return [reply for _, reply in replies]

    def next(self) -> TrainBatch:
        found = wait_until(lambda: self.feed.next(0.01), "a batch is ready")
        assert found is not None
        return found

    def done(self, batch: TrainBatch) -> None:
        self.feed.done(batch, np.ones(N, np.float32))

    def close(self) -> None:
        self.feed.close()
        self._socket.close(linger=0)
        self._context.term()


Start = Callable[..., Stage]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the one stage of a test, with changes of the configuration."""
    stages: list[Stage] = []

    def start(path: Path | None = tmp_path / "replay", **changes: Any) -> Stage:
        stages.append(Stage(path, manifest(prefetch_batches=CREDIT, **changes)))
        return stages[-1]

    yield start
    for stage in stages:
        stage.close()


def assert_is_what_was_inserted(batch: TrainBatch, run: Manifest) -> None:
    """Every block is an insert of its own, with the number after its sequence number."""
    stack = run.layout.frame_stack
    for i, key in enumerate(batch.key.tolist()):
        block, offset = divmod(key, LENGTH)
        message = insert(steps(1, run.layout), sequence=block - 1, layout=run.layout, spec=run.spec)
        slow = transitions(message, run.layout, run.config.discount)[0, offset]
        shift = int(batch.shift[i])
        assert batch.frames[i, :stack].tolist() == slow.obs
        assert batch.frames[i, shift : shift + stack].tolist() == slow.next_obs
        assert batch.action[i] == slow.action
        assert batch.n_step_return[i] == slow.n_step_return
        assert batch.discount[i] == slow.discount


@pytest.mark.parametrize("path", ["shared memory", "wire"])
def test_the_same_transitions_come_by_either_path(start: Start, tmp_path: Path, path: str) -> None:
    stage = start(replay_link="auto" if path == "shared memory" else "wire")
    stage.insert(SLOTS)
    # Keys of several batches are one message.
    kind, messages = (Drawn, 1) if path == "shared memory" else (Batch, CREDIT)
    assert [type(reply) for reply in stage.serve()] == [kind] * messages
    for i in range(10):
        batch = stage.next()
        assert_is_what_was_inserted(batch, stage.run)
        sent, key = stage.sent_batches()[i]
        assert batch.key.tolist() == key
        assert batch.inserted == {0: sent.inserted}
        assert batch.table_size == sent.table_size
        assert batch.sampled == (i + 1) * N
        stage.done(batch)
        assert [type(reply) for reply in stage.serve()] == [kind]
        assert stage.requests[-1].key.tolist() == batch.key.tolist()
    assert stage.feed.overwritten == 0


def test_what_is_evicted_before_it_is_read_is_replaced_and_counted(start: Start) -> None:
    stage = start()
    stage.insert(SLOTS)
    replies = stage.hear()
    stage.insert(1)  # Block 4 takes the place of block 1, keys 4 … 7.
    stage.send(replies)
    lost = 0
    for _ in range(CREDIT):
        batch = stage.next()
        assert_is_what_was_inserted(batch, stage.run)
        assert (batch.key >= 2 * LENGTH).all()
    for _, reply in replies:
        assert isinstance(reply, Drawn)
        lost += int(np.count_nonzero(reply.key < 2 * LENGTH))
    assert lost > 0
    assert stage.feed.overwritten == lost


def test_a_batch_that_is_evicted_altogether_is_drawn_again_and_counted(start: Start) -> None:
    stage = start()
    stage.insert(SLOTS)
    replies = stage.hear()
    stage.insert(SLOTS)
    stage.send(replies)
    # As many are asked for in their place, and no priorities go with that.
    stage.serve()
    assert [(r.batches, len(r.key), r.keys_only) for r in stage.requests] == [(CREDIT, 0, True)] * 2
    for _ in range(CREDIT):
        assert_is_what_was_inserted(stage.next(), stage.run)
    assert stage.feed.next(0.0) is None
    assert stage.feed.overwritten == CREDIT * N


def test_a_message_that_holds_no_whole_batches_ends_it(start: Start) -> None:
    stage = start()
    stage.insert(SLOTS)
    ((peer, drawn),) = stage.hear()
    assert isinstance(drawn, Drawn)
    stage.send([(peer, replace(drawn, key=drawn.key[:-1], probability=drawn.probability[:-1]))])
    with pytest.raises(MalformedMessage, match=r"drawn\.key has shape"):
        stage.next()


@pytest.mark.parametrize(
    ("batches", "counted"),
    [(1, 1), (2 * CREDIT, 2)],
    ids=["as after a new connection", "at once"],
)
def test_batches_beyond_those_that_were_asked_for_are_counted_and_left_alone(
    start: Start, batches: int, counted: int
) -> None:
    stage = start()
    stage.insert(SLOTS)
    ((peer, drawn),) = stage.hear()
    assert isinstance(drawn, Drawn)
    before = {name: np.resize(getattr(drawn, name), batches * N) for name in ("key", "probability")}
    stage.send([(peer, replace(drawn, **before)), (peer, drawn)])
    # Both have come before a buffer is free again.
    by_reason = stage.rejections.by_reason
    wait_until(lambda: by_reason[Reason.SEQUENCE] == counted, "what was not asked for is counted")
    # As many as there may be go round all the same.
    for _ in range(2):
        round_of_all = [stage.next() for _ in range(CREDIT)]
        assert stage.feed.next(0.0) is None
        for batch in round_of_all:
            assert_is_what_was_inserted(batch, stage.run)
            stage.done(batch)
        while sum(r.batches for r in stage.requests[1:]) < CREDIT:
            stage.serve()
        del stage.requests[1:]
    assert stage.rejections.by_reason[Reason.SEQUENCE] == counted


def test_priorities_of_replaced_transitions_go_to_those_that_stood_in(start: Start) -> None:
    stage = start()
    stage.insert(SLOTS)
    replies = stage.hear()
    stage.insert(1)
    stage.send(replies)
    batch = stage.next()
    stage.done(batch)
    stage.hear()
    assert stage.requests[-1].key.tolist() == batch.key.tolist()
    assert stage.table.counters.stale_updates == 0
    assert stage.table.counters.updates == N


def test_a_server_that_starts_again_over_its_file_goes_on_by_shared_memory(
    start: Start, tmp_path: Path
) -> None:
    stage = start()
    stage.insert(SLOTS)
    stage.serve()
    batches = [stage.next() for _ in range(CREDIT)]
    stage.table = build_table(stage.run, tmp_path / "replay")
    stage.insert(1)
    for batch in batches:
        stage.done(batch)
        assert [type(reply) for reply in stage.serve()] == [Drawn]
        assert_is_what_was_inserted(stage.next(), stage.run)


def test_keys_that_a_server_drew_before_it_died_are_good_when_its_successor_serves(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They were on their way, or the learner was suspended: the storage has its second owner."""
    stage = start()
    stage.insert(SLOTS)
    of_the_first = stage.hear()
    stage.table = build_table(stage.run, tmp_path / "replay")
    with caplog.at_level(logging.WARNING, "learner"):
        stage.send(of_the_first)
        for _ in range(CREDIT):
            batch = stage.next()
            assert_is_what_was_inserted(batch, stage.run)
            stage.done(batch)
            assert [type(reply) for reply in stage.serve()] == [Drawn]
    assert caplog.messages == []


def test_a_server_with_a_new_file_in_the_place_of_its_old_one_goes_on_by_shared_memory(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = start()
    stage.insert(SLOTS)
    stage.serve()
    batches = [stage.next() for _ in range(CREDIT)]
    (tmp_path / "replay").unlink()
    stage.table, stage.sent = build_table(stage.run, tmp_path / "replay"), 0
    stage.insert(SLOTS)
    with caplog.at_level(logging.INFO, "learner"):
        for batch in batches:
            stage.done(batch)
            assert [type(reply) for reply in stage.serve()] == [Drawn]
            assert_is_what_was_inserted(stage.next(), stage.run)
    assert caplog.messages == [
        "the replay server has another storage now",
        f"transitions are read from {tmp_path / 'replay'}",
    ]


def test_a_server_that_comes_back_with_a_storage_within_reach_is_read_from_it(
    start: Start, tmp_path: Path
) -> None:
    stage = start(path=None)
    stage.insert(SLOTS)
    assert [type(reply) for reply in stage.serve()] == [Batch] * CREDIT
    batches = [stage.next() for _ in range(CREDIT)]
    stage.table, stage.sent = build_table(stage.run, tmp_path / "replay"), 0
    stage.insert(SLOTS)
    again = replace(stage.server, session=2, storage=str(tmp_path / "replay"))
    stage.feed.follow({0: again})
    for batch in batches:
        stage.done(batch)
        assert [type(reply) for reply in stage.serve()] == [Drawn]
        assert_is_what_was_inserted(stage.next(), stage.run)


UNREACHABLE = {
    ("memory alone", "auto"): "batches come over the wire: PATH cannot be mapped (",
    ("memory alone", "shared_memory"): "batches come over the wire for now: replay_link = ",
    ("a file elsewhere", "auto"): "it is not the one at PATH: batches come over the wire",
    ("a file elsewhere", "shared_memory"): "it is not the one at PATH: batches come over the wire",
}


@pytest.mark.parametrize(("other", "link"), UNREACHABLE)
def test_a_server_whose_storage_is_out_of_reach_now_is_heard_by_wire(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, other: str, link: str
) -> None:
    stage = start(replay_link=link)
    stage.insert(SLOTS)
    stage.serve()
    batches = [stage.next() for _ in range(CREDIT)]
    path: Path | None = tmp_path / "elsewhere"
    if other == "memory alone":
        (tmp_path / "replay").unlink()
        path = None
    stage.table, stage.sent = build_table(stage.run, path), 0
    stage.insert(SLOTS)
    with caplog.at_level(logging.INFO, "learner"):
        # Both credits ask for keys again, in one message or in two, before the first mismatch is
        # seen.
        for batch in batches:
            stage.done(batch)
        replies = stage.hear()
        while sum(r.batches for r in stage.requests[1:]) < CREDIT:
            replies += stage.hear()
        asked = len(stage.requests)
        stage.send(replies)
        # What came by key is asked for once more, by wire.
        served: list[Message] = []
        while len(served) < CREDIT:
            served += stage.serve()
    assert [type(reply) for reply in served] == [Batch] * CREDIT
    again = stage.requests[asked:]
    assert not any(r.keys_only for r in again)
    assert sum(r.batches for r in again) == CREDIT
    first, *_, last = caplog.messages
    assert first == "the replay server has another storage now"
    assert last.startswith(UNREACHABLE[other, link].replace("PATH", str(tmp_path / "replay")))
    assert len(caplog.messages) <= 3
    for _ in range(5):
        batch = stage.next()
        assert_is_what_was_inserted(batch, stage.run)
        stage.done(batch)
        assert [type(reply) for reply in stage.serve()] == [Batch]
        assert stage.requests[-1].keys_only is False


def test_who_insists_on_shared_memory_is_told_before_anything_starts(start: Start) -> None:
    with pytest.raises(ConfigError, match="replay_link = shared_memory is not possible"):
        start(path=None, replay_link="shared_memory")


def test_uniform_replay_is_read_as_well(start: Start) -> None:
    stage = start(prioritized=False)
    stage.insert(SLOTS)
    stage.serve()
    batch = stage.next()
    assert_is_what_was_inserted(batch, stage.run)
    assert batch.weight.tolist() == [1.0] * N
    stage.done(batch)
    assert [type(reply) for reply in stage.serve()] == [Drawn]
    assert len(stage.requests[-1].key) == 0
