"""Our replay server as a `ServedReplay`: the real table, socket loop and codec, and the actor's own
client. Only the head is missing: nobody to heartbeat to."""

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, cast

import numpy as np
import zmq

from actor.blocks import Blocks
from actor.replay_client import ReplayClient
from common import transport
from common.config import config_from_mapping
from common.manifest import Manifest
from common.membership import Membership
from common.messages import Batch, SampleRequest
from common.spec import EnvSpec
from replay_server.server import build_table, serve
from tests.benchmarks.served import SPAWN, Progress, ServedReplay, Workload


class _NoHead:
    """Stands in for a membership."""

    joins = 0
    stop_requested = False

    def poll(self, now_s: float, counters: Callable[[], dict[str, float]]) -> None:
        pass


def _manifest(workload: Workload) -> Manifest:
    config = config_from_mapping(
        {
            "replay_capacity": workload.capacity,
            "batch_size": workload.batch_size,
            "block_length": workload.length,
            "n_step": workload.n_step,
            "discount": workload.discount,
            "priority_exponent": workload.priority_exponent,
            "insert_window": workload.in_flight,
            "samples_per_insert": None,
            "min_size_to_sample": workload.batch_size,
            "envs_per_actor": workload.blocks,
        },
        "benchmark",
    )
    return Manifest("benchmark", config, EnvSpec((workload.obs_size,), "<f4", workload.actions))


def _server(workload: Workload, pipe: Connection) -> None:
    """The server's process, until the pipe is closed."""
    table = build_table(_manifest(workload), None)
    stop = threading.Event()

    def stop_with_parent() -> None:
        pipe.poll(None)
        stop.set()

    with zmq.Context() as context:
        socket, endpoint = transport.bind(context, zmq.ROUTER, "tcp://127.0.0.1:0")
        socket.router_mandatory = True
        pipe.send(endpoint)
        threading.Thread(target=stop_with_parent, daemon=True).start()
        serve(socket, endpoint, table, cast(Membership, _NoHead()), stop)
        socket.close()


@contextmanager
def _serving(workload: Workload) -> Iterator[str]:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_server, args=(workload, theirs), daemon=True)
    process.start()
    theirs.close()  # So that a server that dies is an EOFError here.
    endpoint = ours.recv()
    try:
        yield endpoint
    finally:
        ours.close()
        process.join(10)


def _write(endpoint: str, workload: Workload, progress: Progress) -> None:
    blocks = Blocks(**workload.experience(progress.seed)._asdict())
    # A session of its own for every process: sequence numbers start at 0.
    session = secrets.randbits(62)
    with zmq.Context() as context:
        client = ReplayClient(context, endpoint, session, workload.in_flight)
        while not progress.stopped:
            while not client.window_is_full:
                client.insert(blocks, weights_version=0)
            client.poll(timeout_ms=100)
            progress.add((workload.in_flight - client.unacknowledged) * workload.insert_size)
        client.close()


def _read(endpoint: str, workload: Workload, progress: Progress) -> None:
    rng = np.random.default_rng(progress.seed)
    priority = rng.exponential(size=workload.batch_size).astype(np.float32)
    with zmq.Context() as context:
        socket: zmq.Socket[Any] = transport.connect(context, zmq.DEALER, endpoint)
        transport.send(socket, SampleRequest(workload.in_flight))
        while not progress.stopped:
            socket.poll(100)
            while isinstance(batch := transport.receive(socket), Batch):
                progress.add(1)
                transport.send(socket, SampleRequest(1, batch.key, priority))
        socket.close()


OWN_REPLAY = ServedReplay("zapex", _serving, _write, _read)
