"""A feed of either kind, on either path, against a replay server that the test has in its hands.

Batch `number` are the transitions of block number + 1: whoever gets them by wire is sent them,
whoever reads the storage is sent their keys.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zmq

from common import transport
from common.blocks import RowKind
from common.config import Config
from common.manifest import Manifest
from common.messages import Batch, Drawn, Insert, Message, SampleRequest, Serving
from common.process import machine_id
from common.rejections import Rejections
from common.spec import EnvSpec
from common.trace import NO_TRACE
from learner.batches import Batches
from learner.feed import Feed, InlineFeed, Prefetcher
from learner.update import TrainBatch
from replay_server.storage import Storage
from tests.contract.sockets import receive_with_prefix
from tests.waiting import wait_until

Context = zmq.Context[zmq.Socket[bytes]]
SPEC = EnvSpec((2, 3), "|u1", 5)
N = 4
"""Transitions in a batch, and in a block."""
BATCHES = 20
Kind = Callable[[Context, Serving, Manifest, torch.device, Rejections], Prefetcher | InlineFeed]


def prefetcher(
    context: Context,
    server: Serving,
    manifest: Manifest,
    device: torch.device,
    rejections: Rejections,
) -> Prefetcher:
    batches = Batches(context, server, manifest, device, NO_TRACE, rejections)
    return Prefetcher(batches, context)


def inline_feed(
    context: Context,
    server: Serving,
    manifest: Manifest,
    device: torch.device,
    rejections: Rejections,
) -> InlineFeed:
    return InlineFeed(Batches(context, server, manifest, device, NO_TRACE, rejections))


def batch(number: int) -> Batch:
    """Its every array tells its number; those of an odd number end with an episode. N·p = 1/4, 1, 4
    and 16."""
    row = np.arange(N)
    frames = np.zeros((N, 2, *SPEC.obs_shape), np.uint8)
    for place in range(2):
        frames[:, place] = (10 * number + row + place)[:, None, None]
    discount = np.full(N, 0.5, np.float32)
    discount[-1] = 0.0 if number % 2 else 0.5
    return Batch(
        table_size=16,
        inserted=100 + number,
        sampled=4 * number,
        mass=1.0,
        request=0,
        mean_version=float(number),
        frames=frames,
        shift=np.ones(N, np.uint8),
        action=row.astype(np.int32),
        n_step_return=np.full(N, number, np.float32),
        discount=discount,
        probability=np.array([1 / 64, 1 / 16, 1 / 4, 1.0], np.float32),
        key=(number + 1) * N + row,
    )


def block(number: int) -> Insert:
    """What the batch of that number is made of."""
    row = np.arange(N + 1)
    row_kind = np.full((1, N + 1), RowKind.STEP, np.uint8)
    row_kind[0, -1] = RowKind.TERMINATED if number % 2 else RowKind.STEP
    pictures = (10 * number + row).astype(np.uint8)[None, :, None, None]
    return Insert(
        session=0,
        sequence=number,
        weights_version=number,
        obs=np.broadcast_to(pictures, (1, N + 1, *SPEC.obs_shape)),
        action=row[None].astype(np.int32),
        reward=np.full((1, N + 1), number, np.float32),
        row_kind=row_kind,
        priority=np.ones((1, N), np.float32),
    )


def priority(number: int) -> Any:
    return np.arange(N, dtype=np.float32) + np.float32(number)


class Stage:
    """A feed and the replay server that it talks to; counts the batches asked of it.

    Args:
        path: of the storage that the feed is to read; None: batches come by wire.
    """

    def __init__(self, context: Context, kind: Kind, path: Path | None, **changes: Any) -> None:
        values = {
            "batch_size": N,
            "prefetch_batches": 3,
            "block_length": N,
            "n_step": 1,
            "discount": 0.5,
            "replay_capacity": BATCHES * N,
            "envs_per_actor": 1,
            "min_size_to_sample": 1,
        }
        manifest = Manifest("run", Config(**{**values, **changes}), SPEC)
        self._context = context
        self._socket, endpoint = transport.bind(context, zmq.ROUTER, "inproc://replay")
        server = Serving(1, endpoint)
        self._instance: int | None = None
        """Of the storage that the feed reads."""
        if path is not None:
            storage = Storage(SPEC, manifest.layout, BATCHES, path)
            for number in range(BATCHES):
                storage.write(block(number))
            self._instance = storage.instance
            server = replace(server, machine=machine_id(), storage=str(path))
        self._server = server
        self.rejections = Rejections("learner_rejected_messages_total")
        self.feed: Feed = kind(context, server, manifest, torch.device("cpu"), self.rejections)
        self._ended = False
        self._peer = b""
        self.asked = 0
        """Batches, in all requests so far."""

    def move(self) -> None:
        """The server's successor listens elsewhere, and the feed is told so."""
        self._socket.close(linger=0)
        address = f"{self._server.endpoint}-again"
        self._socket, endpoint = transport.bind(self._context, zmq.ROUTER, address)
        self._server = replace(self._server, endpoint=endpoint)
        self.feed.follow({0: self._server})

    def request(self) -> SampleRequest:
        """The next request, which must come."""
        self._peer, message = receive_with_prefix(self._socket)
        assert isinstance(message, SampleRequest)
        assert message.keys_only == (self._instance is not None)
        self.asked += message.batches
        return message

    def nothing_more(self) -> bool:
        """Whether everything that the feed ever sent has been heard. Ends it."""
        self.end()
        return not transport.has_message(self._socket)

    def answer(self, number: int, **changes: Any) -> None:
        """The batch of that number, on this stage's path."""
        message: Batch | Drawn = batch(number)
        if self._instance is not None:
            names = ("table_size", "inserted", "sampled", "mass", "request", "probability", "key")
            fields = {name: getattr(message, name) for name in names}
            message = Drawn(instance=self._instance, **fields)
        self.send(replace(message, **changes))

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


def assert_is(got: TrainBatch, number: int) -> None:
    """The batch of that number."""
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
