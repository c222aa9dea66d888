"""Versions of the weights per second that reach every one of N subscribers.

The learner's own control plane publishes a version as soon as all subscribers, the actors' own,
have the one before; all of them live in one other process of this host. Bytes count once for each
subscriber. The limit is one loopback TCP connection: whatever reaches N actors of this host goes
through it N times. Medians over the versions.
"""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

import zmq

from actor.weights import WeightsSubscription
from common.config import Config
from common.manifest import Manifest
from common.membership import Membership
from common.messages import ACTING, NamedTensors
from common.networks import build_network
from learner.weights import Snapshot
from tests.benchmarks import machine
from tests.benchmarks.fed_rounds import INPUTS
from tests.benchmarks.report import Figure, report
from tests.benchmarks.served import child
from tests.open_head import open_head

PATIENCE_S = 5.0
"""After which a version is published again."""


def run(
    subscribers: tuple[int, ...] = (1, 16, 128),
    networks: tuple[str, ...] = ("mlp", "nature"),
    window_s: float = 3.0,
    json: bool = False,
) -> None:
    """Versions of the weights per second to N subscribers.

    Args:
        subscribers: N.
        networks: mlp (of CartPole, 70 kB), minatar, nature (13 MB).
        window_s: Seconds for each, and five versions at least.
        json: Print one line of JSON for each figure.
    """
    report(figures(subscribers, networks, window_s), as_json=json)


def figures(
    subscribers: tuple[int, ...], networks: tuple[str, ...], window_s: float
) -> list[Figure]:
    """Versions per second, and GB/s beside loopback TCP."""
    result = []
    for network in networks:
        manifest, tensors = _weights(network)
        nbytes = sum(array.nbytes for array in tensors.values())
        for count in subscribers:
            loopback = machine.loopback_bytes_per_s(min(window_s, 1.0))
            seconds = _broadcast(manifest, tensors, count, window_s)
            where = f"weights_broadcast.{network}_{nbytes / 1e6:.2g}_MB.{count}_subscribers"
            result.append(Figure(f"{where}.rate", 1 / seconds, "versions/s"))
            result.append(
                Figure(
                    f"{where}.volume",
                    count * nbytes / seconds / 1e9,
                    "GB/s",
                    limit=loopback / 1e9,
                    limit_name="loopback TCP",
                )
            )
    return result


def _weights(network: str) -> tuple[Manifest, NamedTensors]:
    spec, frame_stack = INPUTS[network]
    config = Config(network=network, frame_stack=frame_stack)
    return Manifest("benchmark", config, spec), Snapshot(build_network(config, spec)).tensors()


def _broadcast(
    manifest: Manifest, tensors: NamedTensors, subscribers: int, window_s: float
) -> float:
    """Median seconds from publishing a version until all have it."""
    with zmq.Context() as context, ExitStack() as stack:
        control = stack.enter_context(open_head(context, "tcp://127.0.0.1:0", manifest))
        control.publish(ACTING, 0, 0, tensors)
        reached = stack.enter_context(_subscribing(control.endpoint, subscribers))
        times_s: list[float] = []
        begin_s = time.perf_counter()
        while len(times_s) < 5 or time.perf_counter() < begin_s + window_s:
            start_s = time.perf_counter()
            control.publish(ACTING, 0, len(times_s) + 1, tensors)
            while not reached.poll(PATIENCE_S):
                # Dropped for those whose queues were full of what late subscribers had asked for.
                control.publish(ACTING, 0, len(times_s) + 1, tensors)
            reached.recv()
            times_s.append(time.perf_counter() - start_s)
    return statistics.median(times_s)


@contextmanager
def _subscribing(head: str, subscribers: int) -> Iterator[Connection]:
    """Tells of each version that all subscribers have, the one of now first."""
    with child(_subscribe, head, subscribers) as reached:
        reached.recv()
        yield reached


def _subscribe(head: str, count: int, everybody: Connection) -> None:
    with zmq.Context() as context:
        # A replay server is welcomed at once, and told where the weights are.
        membership = Membership(context, head, "replay_server")
        membership.join(time.monotonic, threading.Event())
        subscriptions = [
            WeightsSubscription(context, membership.weights_endpoint, ACTING, membership.rejections)
            for _ in range(count)
        ]
        membership.leave("knows the address of the weights")
        version = 0
        try:
            while not everybody.closed:
                for subscription in subscriptions:
                    weights = None
                    while weights is None or weights.version < version:
                        weights = subscription.latest(timeout_ms=100)
                        if weights is None and everybody.poll():
                            return  # The other end is closed.
                everybody.send(version)
                version += 1
        finally:
            for subscription in subscriptions:
                subscription.close()
