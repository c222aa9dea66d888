"""Our replay server as a `ServedReplay`: the real table, socket loop and codec, the actor's own
client, the learner's own feed. Only the head is missing: nobody to heartbeat to."""

import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import zmq

from actor.blocks import Blocks
from actor.replay_client import ReplayClient
from common import transport
from common.compression import CompressedArray
from common.config import config_from_mapping
from common.manifest import Manifest
from common.membership import Membership
from common.messages import Batch, SampleRequest, Serving
from common.process import machine_id
from common.rejections import Rejections
from common.security import SecureContext, open_security
from common.spec import EnvSpec
from common.wire_method import wire_method
from learner.feed import open_feed
from replay_server.server import build_table, serve
from tests.benchmarks.served import Progress, ServedReplay, Workload, child

SHARED_MEMORY = Path("/dev/shm")


class NoHead:
    """Stands in for a membership."""

    contacts = 0
    stop_requested = False

    def poll(self, now_s: float, counters: Callable[[], dict[str, float]]) -> None:
        pass


def manifest_of(workload: Workload, replay_link: str = "auto", **changes: Any) -> Manifest:
    """A run of that workload, free of the rate limiter; `changes`: further configuration."""
    config = config_from_mapping(
        {
            "replay_capacity": workload.capacity,
            "batch_size": workload.batch_size,
            "block_length": workload.length,
            "n_step": workload.n_step,
            "frame_stack": workload.frame_stack,
            "discount": workload.discount,
            "priority_exponent": workload.priority_exponent,
            "importance_sampling_exponent": workload.importance_sampling_exponent,
            "insert_window": workload.in_flight,
            "prefetch_batches": workload.in_flight,
            "samples_per_insert": None,
            "min_size_to_sample": workload.batch_size,
            "envs_per_actor": workload.blocks,
            "replay_link": replay_link,
            **changes,
        },
        "benchmark",
    )
    spec = EnvSpec(workload.obs_shape, workload.obs_dtype, workload.actions)
    return Manifest("benchmark", config, spec)


def _server(manifest: Manifest, storage: Path | None, pipe: Connection) -> None:
    """The server's process, until the pipe is closed."""
    stop = threading.Event()

    def stop_with_parent() -> None:
        pipe.poll(None)
        stop.set()

    with SecureContext(open_security(None)) as context:
        socket, endpoint = transport.bind(context, zmq.ROUTER, "tcp://127.0.0.1:0")
        socket.router_mandatory = True
        method = wire_method(endpoint, manifest.config.compression)
        table = build_table(manifest, storage, method=method)
        path = "" if storage is None else str(storage)
        pipe.send(Serving(1, endpoint, machine_id(), path))
        threading.Thread(target=stop_with_parent, daemon=True).start()
        serve(socket, endpoint, table, cast(Membership, NoHead()), stop)
        socket.close()


@contextmanager
def serving(manifest: Manifest, directory: Path | None = None) -> Iterator[Serving]:
    """A replay server in its own process, with its storage in a file of `directory` or, if None,
    in memory of its own."""
    with tempfile.TemporaryDirectory(prefix="zapex-", dir=directory) as temporary:
        storage = None if directory is None else Path(temporary) / "storage"
        with child(_server, manifest, storage) as server:
            yield server.recv()


@contextmanager
def _in_memory(workload: Workload) -> Iterator[Serving]:
    with serving(manifest_of(workload)) as server:
        yield server


@contextmanager
def _in_shared_memory(workload: Workload) -> Iterator[Serving]:
    with serving(manifest_of(workload), SHARED_MEMORY) as server:
        yield server


@contextmanager
def _client(server: Serving, workload: Workload) -> Iterator[ReplayClient]:
    with SecureContext(open_security(None)) as context:
        # A session of its own for every process: sequence numbers start at 0.
        session = secrets.randbits(62)
        client = ReplayClient(
            context,
            server.endpoint,
            session,
            workload.in_flight,
            Rejections("actor_rejected_messages_total"),
            manifest_of(workload).config.compression,
        )
        try:
            yield client
        finally:
            client.close()


def _write(server: Serving, workload: Workload, progress: Progress) -> None:
    blocks = Blocks(**workload.experience(progress.seed)._asdict())
    with _client(server, workload) as client:
        while not progress.stopped:
            while not client.window_is_full:
                client.insert(blocks, weights_version=0)
            client.poll(timeout_ms=100)
            progress.add((workload.in_flight - client.unacknowledged) * workload.insert_size)


def _confirm(server: Serving, workload: Workload, inserts: int) -> list[float]:
    blocks = Blocks(**workload.experience(seed=0)._asdict())
    times_s = []
    with _client(server, workload) as client:
        for _ in range(inserts):
            start_s = time.perf_counter()
            client.insert(blocks, weights_version=0)
            while client.unacknowledged:
                client.poll(timeout_ms=100)
            times_s.append(time.perf_counter() - start_s)
    return times_s


def _read_wire(server: Serving, workload: Workload, progress: Progress) -> None:
    priority = _new_priority(workload, progress.seed)
    frames = np.empty(0, np.uint8)
    used: list[Any] = []
    with SecureContext(open_security(None)) as context:
        socket: zmq.Socket[Any] = transport.connect(context, zmq.DEALER, server.endpoint)
        transport.send(socket, SampleRequest(workload.in_flight))
        while not progress.stopped:
            socket.poll(100)
            while isinstance(batch := transport.receive(socket), Batch):
                if isinstance(batch.frames, CompressedArray):
                    if not frames.size:
                        frames = np.empty(batch.frames.shape, batch.frames.dtype)
                    batch.frames.copy_to(frames)
                progress.add(1)
                # As the learner's feed does: they go home for half of the credit at once.
                used.append(batch.key)
                if len(used) >= workload.in_flight // 2:
                    keys = np.concatenate(used)
                    priorities = np.tile(priority, len(used))
                    transport.send(socket, SampleRequest(len(used), keys, priorities))
                    used.clear()
        socket.close()


def _read_mapped(server: Serving, workload: Workload, progress: Progress) -> None:
    priority = _new_priority(workload, progress.seed)
    with SecureContext(open_security(None)) as context:
        manifest = manifest_of(workload, replay_link="shared_memory")
        feed = open_feed(context, {0: server}, manifest, torch.device("cpu"))
        while not progress.stopped:
            batch = feed.next(timeout_s=0.1)
            if batch is not None:
                progress.add(1)
                feed.done(batch, priority)
        feed.close()


def _new_priority(workload: Workload, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.exponential(size=workload.batch_size).astype(np.float32)


BY_WIRE = ServedReplay("zapex", _in_memory, _write, _read_wire, _confirm)
BY_SHARED_MEMORY = ServedReplay(
    "zapex, shared memory", _in_shared_memory, _write, _read_mapped, _confirm
)
"""Whoever reads maps the storage; inserts come over the wire."""
