"""Several replay servers, each a real table in a test's hands, and the batches made of them all."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zmq

from common import codec, transport
from common.config import Config
from common.manifest import Manifest
from common.messages import Batch, Drawn, Insert, Message, PartRequest, Serving
from common.process import machine_id
from common.rejections import Rejections
from common.trace import NO_TRACE
from learner.batches import Used
from learner.shards import ShardedBatches
from learner.update import TrainBatch
from replay_server.server import build_table
from replay_server.table import Table
from tests.experience import LAYOUT, SPEC, insert, steps

Context = zmq.Context[zmq.Socket[bytes]]
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
    """The number-th block that the server gets, from 1: its observations say so, and the version
    that acted, and its transitions have priorities of once, twice, three and four times
    `priority`."""
    version = version_of(server, number)
    message = insert(steps(), session=server, sequence=number - 1, weights_version=version)
    obs = np.empty_like(message.obs)
    obs[..., 0], obs[..., 1] = server, number
    priorities = (priority * np.arange(1, LAYOUT.length + 1, dtype=np.float32))[None]
    return replace(message, obs=obs, priority=priorities, oldest=0)


def version_of(server: int, number: int) -> int:
    return 100 * server + number


class Server:
    """A table behind a socket, which answers when the test wants it to.

    Args:
        path: of its storage, which the learner is to read; None: rows come by wire.
    """

    def __init__(self, context: Context, run: Manifest, number: int, path: Path | None) -> None:
        self.number, self._run, self._path, self._context = number, run, path, context
        self.socket, endpoint = transport.bind(context, zmq.ROUTER, f"inproc://replay-{number}")
        self.table: Table = build_table(run, path)
        self.serving = Serving(number, endpoint)
        if path is not None:
            self.serving = replace(self.serving, machine=machine_id(), storage=str(path))
        self.heard: list[PartRequest] = []
        self.said: list[Batch | Drawn] = []
        self.blocks = 0

    def start_again(self, *, empty: bool) -> None:
        """As another process, over what there was (which takes a path) or over nothing."""
        if empty:
            self.blocks = 0
            if self._path is not None:
                self._path.unlink()
        self.table = build_table(self._run, self._path)

    def move(self) -> None:
        """Its successor, with what there was, listens elsewhere."""
        self.close()
        address = f"{self.serving.endpoint}-again"
        self.socket, endpoint = transport.bind(self._context, zmq.ROUTER, address)
        self.serving = replace(self.serving, endpoint=endpoint)

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
                assert isinstance(reply, Batch | Drawn)
                self.said.append(reply)
        # What waited and may be stored now.
        list(self.table.advance())
        return count

    def send(self, peer: bytes, message: Message) -> None:
        transport.send(self.socket, message, prefix=(peer,))

    def close(self) -> None:
        self.socket.close(linger=0)


class Stage:
    """A learner's batches, and servers with blocks of these priorities.

    Args:
        path: begins the names of the storages that the learner is to read; None: rows come by wire.
    """

    def __init__(
        self,
        context: Context,
        ends: ExitStack,
        path: Path | None,
        priorities: Mapping[int, list[float]],
        **changes: Any,
    ) -> None:
        self.config = config(replay_servers=len(priorities), **changes)
        self.run = run = Manifest("run", self.config, SPEC)
        assert run.layout == LAYOUT
        self.now_s = 100.0
        self._ready: deque[TrainBatch] = deque()
        self.servers = {
            n: Server(context, run, n, path and path.with_name(f"{path.name}-{n}"))
            for n in priorities
        }
        for number, server in self.servers.items():
            ends.callback(server.close)
            for priority in priorities[number]:
                server.insert(priority)
        self.rejections = Rejections("learner_rejected_messages_total")
        self.batches = ShardedBatches(
            context,
            {n: server.serving for n, server in self.servers.items()},
            run,
            torch.device("cpu"),
            NO_TRACE,
            self.rejections,
            now_s=lambda: self.now_s,
        )
        ends.callback(self.batches.close)

    def turn(
        self, *silent: int, meanwhile: Callable[[], object] = lambda: None
    ) -> list[TrainBatch]:
        """The servers answer, but for the silent ones; what is complete then.

        Args:
            meanwhile: happens while the answers are under way.
        """
        for number, server in self.servers.items():
            if number not in silent:
                server.answer()
        meanwhile()
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

    def weights_of_one_table(self, drawn: Sequence[tuple[int, int]]) -> npt.NDArray[np.float64]:
        """Of a batch of these transitions, by server and key: (N·P)^−β over the largest of them,
        Schaul et al. 2016, section 3.4."""
        probability = self.probability()
        weight = np.array([(len(probability) * probability[item]) ** -0.5 for item in drawn])
        return weight / weight.max()

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
    """Server and key of each row; the observation tells the server, and the block, too."""
    server, block = batch.frames[:, 0].long().unbind(1)
    assert block.tolist() == (batch.key // LAYOUT.length).tolist()
    return list(zip(server.tolist(), batch.key.tolist(), strict=True))


Start = Callable[..., Stage]
