"""What a head pays for the telemetry of N actors, one heartbeat each per second.

The head is the learner's own control plane, in a process that does nothing else. The actors are the
sockets of one other process, each with a connection of its own; their heartbeats carry an actor's
counters and gauges, histograms that grow, and an episode. Counted is the processor time of the
head's process, all threads, ZeroMQ's own, the idle turns of its loop and its records of the run
included; what was sent must be in those records. The limit is a bare ROUTER that takes the same
frames and looks into none, and sends as many answers of the same size.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import zmq

from common import codec, transport
from common.config import Config
from common.manifest import Manifest
from common.membership import HEARTBEAT_PERIOD_S
from common.messages import Directive, Heartbeat, Join, Message, Serving, Welcome
from common.metric_table import histogram
from common.spec import EnvSpec
from learner.members import ANSWER_PERIOD_S
from learner.recorder import Record
from learner.sinks import JsonLines
from learner.status import LearnerCounters
from tests.benchmarks.report import Figure, report
from tests.benchmarks.served import START_TIMEOUT_S, child, hear
from tests.open_head import open_head

ENVS = 16
STEPS_PER_S = 100
"""Of all environments of an actor at once."""
SETTLE_S = 3.0
LATE_S = 3.0
"""A heartbeat is in a record after so long at most."""
REPLAY = "tcp://127.0.0.1:9"
"""Nobody listens there, and nobody is asked to."""

Socket = zmq.Socket[bytes]
Serve = Callable[[zmq.Context[Socket], int, threading.Event, Connection, list[int]], None]
"""Context, actors, when to end, whom to tell the address, and where to put how many heartbeats have
come."""


def run(
    actors: tuple[int, ...] = (100, 1000),
    window_s: float = 10.0,
    rounds: int = 3,
    json: bool = False,
) -> None:
    """What a head pays for the telemetry of N actors.

    Args:
        actors: N.
        window_s: Seconds for each measurement.
        rounds: Of the head and of the bare ROUTER in turn; their medians count.
        json: Print one line of JSON for each figure.
    """
    report(figures(actors, window_s, rounds), as_json=json)


def figures(actors: tuple[int, ...], window_s: float, rounds: int) -> list[Figure]:
    """Per cent of a core beside the bare ROUTER's."""
    result = []
    for count in actors:
        shares: dict[Serve, list[float]] = {_serve_head: [], _serve_bare: []}
        for _ in range(rounds):
            for serve, found in shares.items():
                found.append(_share_of_a_core(serve, count, window_s))
        result.append(
            Figure(
                f"telemetry_head.{count}_actors.cpu",
                100 * statistics.median(shares[_serve_head]),
                "% of a core",
                100 * statistics.median(shares[_serve_bare]),
                limit_name="bare ROUTER",
            )
        )
    return result


def _share_of_a_core(serve: Serve, actors: int, window_s: float) -> float:
    with ExitStack() as stack:
        head = stack.enter_context(child(_head, serve, actors))
        simulator = stack.enter_context(child(_actors, hear(head), actors))
        hear(simulator)  # All have joined.

        def now() -> tuple[float, float, int, int]:
            head.send(None)
            simulator.send(None)
            return time.perf_counter(), *head.recv(), simulator.recv()

        time.sleep(SETTLE_S)
        start_s, start_cpu_s, _, sent_before = now()
        time.sleep(window_s)
        end_s, end_cpu_s, heard, sent = now()
    due = actors * (end_s - start_s) / HEARTBEAT_PERIOD_S
    if sent - sent_before < 0.97 * due or heard < sent - actors * LATE_S:
        raise RuntimeError(f"{due:.0f} heartbeats were due; {sent} were sent, {heard} came in all")
    return (end_cpu_s - start_cpu_s) / (end_s - start_s)


# ------------------------------------------------------------------------------------ who is asked


def _head(serve: Serve, actors: int, driver: Connection) -> None:
    """Tells the driver its processor time, and how many heartbeats have come, whenever asked."""
    stop = threading.Event()
    heard = [0]
    with zmq.Context() as context:
        context.max_sockets = 10 * actors + 1_000
        serving = threading.Thread(target=serve, args=(context, actors, stop, driver, heard))
        serving.start()
        try:
            while True:
                driver.recv()
                driver.send((time.process_time(), heard[0]))
        except EOFError:
            stop.set()
            serving.join()


class _Heard:
    """A sink that tells how many heartbeats are in the newest record."""

    def __init__(self, heard: list[int]) -> None:
        self._heard = heard

    def write(self, record: Record) -> None:
        steps = record.values.get("actor_env_steps_total", 0.0)
        self._heard[0] = round(steps / (STEPS_PER_S * ENVS))

    def close(self) -> None:
        """Nothing is kept."""


def _serve_head(
    context: zmq.Context[Socket],
    actors: int,
    stop: threading.Event,
    driver: Connection,
    heard: list[int],
) -> None:
    config = Config(actors=actors, envs_per_actor=ENVS)
    manifest = Manifest("benchmark", config, EnvSpec((4,), "<f4", 2))
    with (
        tempfile.TemporaryDirectory(prefix="zapex-") as directory,
        open_head(
            context,
            "tcp://127.0.0.1:0",
            manifest,
            counters=LearnerCounters(phase="training"),
            wall_s=time.monotonic,
            sinks=[JsonLines(Path(directory) / "metrics.jsonl"), _Heard(heard)],
        ) as control,
    ):
        driver.send(control.endpoint)
        stop.wait()


def _serve_bare(
    context: zmq.Context[Socket],
    actors: int,
    stop: threading.Event,
    driver: Connection,
    heard: list[int],
) -> None:
    socket, endpoint = transport.bind(context, zmq.ROUTER, "tcp://127.0.0.1:0")
    with closing(socket):
        driver.send(endpoint)
        welcome = codec.encode(Welcome(1, 0, 0, 0, 0, 1, {}, ""))
        answer = codec.encode(Directive(1 << 61, "run", actors * ENVS, REPLAY))
        joins = actors + 2  # The replay server says that it serves, too.
        answer_every = round(ANSWER_PERIOD_S / HEARTBEAT_PERIOD_S)
        while not stop.is_set():
            if not transport.wait(socket, 100):
                continue
            while (frames := transport.receive_frames(socket)) is not None:
                if joins:
                    joins -= 1
                    socket.send_multipart([bytes(frames[0]), *welcome])
                    continue
                heard[0] += 1
                if heard[0] % answer_every == 0:
                    socket.send_multipart([bytes(frames[0]), *answer])


# ------------------------------------------------------------------------------------- who asks it


def _actors(head: str, count: int, driver: Connection) -> None:
    """Tells the driver how many heartbeats were sent whenever asked."""
    with zmq.Context() as context:
        context.max_sockets = 10 * count + 1_000
        replay = transport.connect(context, zmq.DEALER, head)
        session = _join([replay], "replay_server")[0]
        transport.send(replay, Serving(session, REPLAY))
        sockets = [transport.connect(context, zmq.DEALER, head) for _ in range(count)]
        try:
            _beat([replay, *sockets], [session, *_join(sockets, "actor")], driver)
        except (EOFError, BrokenPipeError):
            pass
        finally:
            for socket in (replay, *sockets):
                socket.close(linger=0)


def _join(sockets: list[Socket], role: str) -> list[int]:
    """The sessions they are given."""
    for token, socket in enumerate(sockets):
        transport.send(socket, Join(role, "host", 1, ENVS, -1, False, token, "machine"))
    return [_answer(socket).session for socket in sockets]


def _answer(socket: Socket) -> Welcome:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        message: Message | None = transport.receive(socket)
        if isinstance(message, Welcome):
            return message
        transport.wait(socket, 100)
    raise TimeoutError("the head took nobody in")


def _beat(sockets: list[Socket], sessions: list[int], driver: Connection) -> None:
    """Heartbeats, evenly over the time: a period lies between two of one socket."""
    heartbeats = _Heartbeats(len(sockets))
    sent = 0
    start_s = time.perf_counter()
    driver.send("")
    while True:
        due = int((time.perf_counter() - start_s) / HEARTBEAT_PERIOD_S * len(sockets))
        for beat in range(sent, due):
            member = beat % len(sockets)
            socket = sockets[member]
            while transport.receive_frames(socket) is not None:
                pass
            transport.send(socket, heartbeats.next(member, sessions[member]))
        sent = due
        while driver.poll():
            driver.recv()
            driver.send(sent)
        time.sleep(0.001)


class _Heartbeats:
    """What actors of CartPole would send: a member's values grow from one to the next."""

    def __init__(self, members: int) -> None:
        rng = np.random.default_rng(0)
        self._steps = np.zeros(members, np.int64)
        self._step_s, self._ack_s = (
            np.array([_observed(name, mean_s, rng) for _ in range(members)])
            for name, mean_s in (("actor_step_seconds", 2e-3), ("actor_insert_ack_seconds", 4e-3))
        )
        self._growth = self._step_s.copy(), self._ack_s.copy()

    def next(self, member: int, session: int) -> Heartbeat:
        self._steps[member] += STEPS_PER_S
        self._step_s[member] += self._growth[0][member]
        self._ack_s[member] += self._growth[1][member]
        steps = int(self._steps[member])
        episodes = min(member, 1)  # The first member is the replay server.
        return Heartbeat(
            session,
            {
                "actor_env_steps_total": steps * ENVS,
                "actor_episodes_total": steps // 30,
                "actor_blocked_seconds_total": steps * 1.234e-4,
                "actor_unacknowledged_inserts": steps % 3,
                "actor_resent_inserts_total": 0,
                "actor_weights_version": steps // 7,
            },
            np.array([200.0 + member % 17], np.float32)[:episodes],
            np.array([200], np.int32)[:episodes],
            np.array([member % ENVS], np.int32)[:episodes],
            {
                "actor_step_seconds": self._step_s[member],
                "actor_insert_ack_seconds": self._ack_s[member],
            },
        )


def _observed(name: str, mean_s: float, rng: np.random.Generator) -> np.ndarray:
    """A histogram after a second."""
    counted = histogram(name)
    counted.observe_all(rng.lognormal(np.log(mean_s), 0.5, STEPS_PER_S))
    return counted.read()
