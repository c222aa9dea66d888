"""Q-values per second of one host's actors: each by its own network, or by one process for all.

Actors here have no environments: each asks for the values of the same stacks of frames again and
again, as soon as it has an answer, so that what is measured is all that inference costs them, the
way to the process and back included. Windows of both ways alternate, so that a slow minute of the
machine is everybody's. The limit is the device's: forward passes of all actors' observations in one
batch, from memory on the host and back, without any process in between.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
import torch
import tyro
import zmq

from actor.inference_client import InferenceClient
from actor.inference_server import InferenceBatch, inference_device, run_inference_server
from actor.options import MemberOptions
from actor.policy import Policy
from common.config import Config
from common.manifest import Manifest
from common.membership import Membership
from common.messages import ACTING, Serving
from common.metrics import Telemetry
from common.networks import build_network
from common.rejections import Rejections
from common.spec import EnvSpec
from learner.weights import Snapshot
from tests.benchmarks.report import Figure, report
from tests.benchmarks.served import SPAWN, child
from tests.open_head import open_head

SPEC = EnvSpec((84, 84), "|u1", 6)
"""Of Pong."""
START_TIMEOUT_S = 60.0


class Window(NamedTuple):
    """What one actor did in some seconds, or all of them together."""

    rate: float
    """Observations per second."""
    wall_s: list[float]
    """Time that each request took."""
    actor_cpu_s: float
    """CPU time of an actor's process for each request."""
    host_cpu_s: float
    """The inference process's included."""


def run(
    actors: tuple[int, ...] = (1, 2, 4),
    envs: int = 32,
    network: str = "nature",
    device: str = "auto",
    rounds: int = 5,
    window_s: float = 1.0,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Q-values for the actors of one host: by each itself, or by one process.

    Args:
        actors: How many actors there are, one measurement after the other.
        envs: Environments in each actor.
        network: nature, or another for stacks of four frames of 84×84.
        device: Where the one process computes.
        rounds: Windows for each figure, which is their median.
        window_s: Seconds of a window.
        as_json: Print one line of JSON for each figure.
    """
    report(figures(actors, envs, network, device, rounds, window_s), as_json=as_json)


def figures(
    actors: tuple[int, ...], envs: int, network: str, device: str, rounds: int, window_s: float
) -> list[Figure]:
    """One process for all beside each actor's own network, for each number of actors."""
    config = Config(
        inference="host",
        inference_device=device,
        network=network,
        frame_stack=4,
        envs_per_actor=envs,
        actors=max(actors),
    )
    torch.set_num_threads(1)
    manifest = Manifest("inference", config, SPEC)
    return list(_figures(manifest, actors, rounds, window_s))


def _figures(
    manifest: Manifest, actors: tuple[int, ...], rounds: int, window_s: float
) -> Iterator[Figure]:
    with _inference_process(manifest) as (endpoint, process), ExitStack() as ends:
        own = [ends.enter_context(_actor(manifest, "")) for _ in range(max(actors))]
        asking = [ends.enter_context(_actor(manifest, endpoint)) for _ in range(max(actors))]
        for count in actors:
            bare = _bare(manifest, count)
            rounds_of_all = [
                (
                    bare(window_s),
                    _measure(own[:count], None, window_s),
                    _measure(asking[:count], process, window_s),
                )
                for _ in range(rounds)
            ]
            yield from _compare(f"inference.{count}_actors", rounds_of_all)


def _compare(name: str, rounds: list[tuple[float, Window, Window]]) -> Iterator[Figure]:
    def figure(
        part: str, unit: str, quantity: Callable[[Window], float], limit: float | None = None
    ) -> Figure:
        own = statistics.median(quantity(window) for _, window, _ in rounds)
        asking = statistics.median(quantity(window) for _, _, window in rounds)
        what = None if limit is None else "forwards alone"
        return Figure(f"{name}.{part}", asking, unit, limit, own, "own network", what)

    limit = statistics.median(bare for bare, _, _ in rounds)
    yield figure("one_process", "Q-values/s", lambda window: window.rate, limit)
    yield figure("latency_p50", "ms", lambda window: 1e3 * _quantile(window.wall_s, 0.5))
    yield figure("latency_p99", "ms", lambda window: 1e3 * _quantile(window.wall_s, 0.99))
    yield figure("cpu_of_actor", "ms/request", lambda window: 1e3 * window.actor_cpu_s)
    yield figure("cpu_of_host", "ms/request", lambda window: 1e3 * window.host_cpu_s)


def _quantile(times: list[float], q: float) -> float:
    return sorted(times)[int(q * (len(times) - 1))]


def _measure(actors: list[Connection], inference: psutil.Process | None, window_s: float) -> Window:
    before_s = _cpu_s(inference)
    for actor in actors:
        actor.send(window_s)
    windows: list[Window] = [actor.recv() for actor in actors]
    wall_s = [s for window in windows for s in window.wall_s]
    cpu_s = sum(window.actor_cpu_s * len(window.wall_s) for window in windows)
    return Window(
        sum(window.rate for window in windows),
        wall_s,
        cpu_s / len(wall_s),
        (cpu_s + _cpu_s(inference) - before_s) / len(wall_s),
    )


def _cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


def _bare(manifest: Manifest, actors: int) -> Callable[[float], float]:
    """Observations per second of the device, with one batch of all actors' observations."""
    device = inference_device(manifest.config)
    policy = Policy(manifest, device)
    batch = InferenceBatch(manifest, pinned=device.type == "cuda")
    obs = batch.put([_observations(manifest, seed) for seed in range(actors)])

    def rate(window_s: float) -> float:
        done, began_s = 0, time.perf_counter()
        while (elapsed_s := time.perf_counter() - began_s) < window_s:
            policy.q_values(obs)
            done += len(obs)
        return done / elapsed_s

    rate(0.0)
    return rate


def _observations(manifest: Manifest, seed: int) -> npt.NDArray[np.uint8]:
    config = manifest.config
    shape = (config.envs_per_actor, config.frame_stack, *manifest.spec.obs_shape)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --------------------------------------------------------------------------------------- processes


@contextmanager
def _actor(manifest: Manifest, endpoint: str) -> Iterator[Connection]:
    """A process that asks for Q-values, for as many seconds as it is sent."""
    with child(_ask, manifest, endpoint) as actor:
        assert actor.recv() == "ready"
        yield actor


def _ask(manifest: Manifest, endpoint: str, commands: Connection) -> None:
    torch.set_num_threads(1)
    obs = _observations(manifest, seed=0)
    with zmq.Context() as context, ExitStack() as ends:
        ask: Callable[[], Any]
        if endpoint:
            client = InferenceClient(
                context,
                endpoint,
                manifest.spec.num_actions,
                Rejections("actor_rejected_messages_total"),
            )
            ends.callback(client.close)

            def ask() -> None:
                client.ask(obs)
                while client.answer(timeout_ms=100) is None:
                    pass

        else:
            policy = Policy(manifest)

            def ask() -> None:
                policy.q_values(obs)

        ask()
        commands.send("ready")
        while True:
            try:
                window_s = commands.recv()
            except EOFError:
                return
            wall_s, cpu_s, began_s = [], time.process_time(), time.perf_counter()
            while (since_s := time.perf_counter()) < began_s + window_s:
                ask()
                wall_s.append(time.perf_counter() - since_s)
            rate = len(wall_s) * len(obs) / (time.perf_counter() - began_s)
            cpu_s = (time.process_time() - cpu_s) / len(wall_s)
            commands.send(Window(rate, wall_s, cpu_s, cpu_s))


@contextmanager
def _inference_process(manifest: Manifest) -> Iterator[tuple[str, psutil.Process]]:
    """A real one and its address, in the run of a real head, whose replay server does nothing."""
    ours, theirs = SPAWN.Pipe(duplex=False)
    stop = threading.Event()
    with (
        zmq.Context() as context,
        open_head(context, "tcp://127.0.0.1:0", manifest) as control,
    ):
        replay = threading.Thread(target=_be_replay_server, args=(context, control.endpoint, stop))
        replay.start()
        process = SPAWN.Process(target=_serve, args=(control.endpoint, theirs), daemon=True)
        process.start()
        tensors = Snapshot(build_network(manifest.config, manifest.spec)).tensors()
        control.publish(ACTING, 0, 1, tensors)
        try:
            assert ours.poll(START_TIMEOUT_S), "the inference process does not come up"
            yield ours.recv(), psutil.Process(process.pid)
        finally:
            control.stop_members(timeout_s=5.0)
            process.join()
            stop.set()
            replay.join()


def _be_replay_server(
    context: zmq.Context[zmq.Socket[bytes]], head: str, stop: threading.Event
) -> None:
    membership = Membership(context, head, "replay_server")
    membership.join(time.monotonic, stop)
    membership.send(Serving(membership.welcome.session, "tcp://127.0.0.1:9"))
    while not (stop.wait(0.1) or membership.stop_requested):
        membership.poll(time.monotonic(), Telemetry(dict))
    membership.leave("stopped")


def _serve(head: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    with zmq.Context() as context:
        run_inference_server(MemberOptions(head), context, threading.Event(), pipe.send)
