"""Simulated actors, hundreds in one thread: the real membership, insert window and subscription of
each, and experience that was made beforehand."""

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import psutil
import zmq

from actor.blocks import Blocks
from actor.replay_client import ReplayClient
from actor.weights import WeightsSubscription
from common.descriptors import raise_limit
from common.membership import Membership
from common.messages import ACTING
from common.metric_table import histogram
from common.metrics import Telemetry
from tests.benchmarks.scale.plan import Plan
from tests.benchmarks.served import Workload
from tests.tcp_bytes import carried_by_port

VISIT_PERIOD_S = 0.1
"""Between two looks at an actor's head and weights."""
WAIT_MS = 1
"""For the oldest acknowledgement."""
IDLE_S = 0.005
"""Where nothing is under way, to the next look at who is to be visited."""
JOINING = 32
"""Actors that wait for their welcome at once."""
JOIN_TIMEOUT_S = 300.0
POOL = 4
"""Different inserts of a host."""
SOCKETS_OF_ACTOR = 10


@dataclass(frozen=True, slots=True)
class HostReading:
    """What the actors of a host have done since they joined."""

    at_s: float
    """By time.perf_counter()."""
    cpu_s: float
    resident: int
    """Bytes."""
    inserts_due: int
    """Since the pace was set."""
    inserts: int
    """Acknowledged."""
    ack_s: list[float]
    """From an insert to its acknowledgement, of those since the last reading."""
    versions: dict[int, float]
    """When the last subscriber of this host had each version, by time.monotonic()."""
    complete_versions: int
    """Versions that all subscribers of this host have had, or a newer one."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the actors of a host were told to go."""

    weights: str
    """The head's."""
    replays: frozenset[str]


def simulate(plan: Plan, head: str, host: int, count: int, driver: Connection) -> None:
    """The process of one host. Tells how long its actors took to join, then answers commands until
    the pipe ends:

    - read: a HostReading;
    - pace: inserts are due from now on, at the plan's rate, and none from before;
    - carried: bytes on its connections, by port;
    - endpoints: an Endpoints.
    """
    raise_limit()
    with zmq.Context() as context:
        context.max_sockets = SOCKETS_OF_ACTOR * count + 1_000
        since_s = time.perf_counter()
        simulation = _Host(context, plan, head, host, count)
        driver.send(time.perf_counter() - since_s)
        try:
            simulation.run(driver)
        except (EOFError, BrokenPipeError):
            pass
        finally:
            simulation.close()


class _SimulatedActor:
    """One actor: what the real one's loop does with its connections."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], plan: Plan, head: str) -> None:
        self._context = context
        envs = plan.workload.blocks
        self._membership = membership = Membership(context, head, "actor", num_envs=envs)
        manifest = membership.join(time.monotonic, threading.Event(), JOIN_TIMEOUT_S)
        assert manifest is not None
        self._client = ReplayClient(
            context,
            membership.replay_endpoint,
            membership.welcome.session,
            manifest.config.insert_window,
            membership.rejections,
            manifest.config.compression,
        )
        self._weights: WeightsSubscription | None = None
        self.version = -1
        self.owed = 0
        """Inserts that are due and were not sent."""
        self._sent_s: deque[float] = deque()
        self._steps = 0
        self._steps_of_insert = plan.workload.insert_size
        step_s = histogram("actor_step_seconds")
        step_s.observe_all(np.full(100, 1e-2))
        self._telemetry = Telemetry(self._values, [step_s, self._client.ack_s])

    def subscribe(self) -> None:
        """To the weights, where the head says."""
        membership = self._membership
        endpoint = membership.relay_endpoint or membership.weights_endpoint
        self._weights = WeightsSubscription(self._context, endpoint, ACTING, membership.rejections)

    @property
    def replay_endpoint(self) -> str:
        return self._membership.replay_endpoint

    @property
    def weights_endpoint(self) -> str:
        return self._membership.weights_endpoint

    @property
    def is_idle(self) -> bool:
        return not (self.owed or self._sent_s)

    def visit(self) -> bool:
        """A word with the head, and a look for weights: whether there were newer ones."""
        self._membership.poll(time.monotonic(), self._telemetry)
        self._client.follow(self._membership.replay_endpoint)
        if self._weights is None:
            return False
        relay = self._membership.relay_endpoint
        endpoint = relay or self._membership.weights_endpoint
        self._weights.follow(endpoint, on_this_host=bool(relay))
        weights = self._weights.latest()
        if weights is None:
            return False
        self.version = weights.version
        return True

    def turn(self, blocks: Blocks, ack_s: list[float], timeout_ms: int = 0) -> None:
        """Take acknowledgements, adding their times to `ack_s`; send what is due and has room."""
        self._client.poll(timeout_ms)
        now_s = time.perf_counter()
        while len(self._sent_s) > self._client.unacknowledged:
            ack_s.append(now_s - self._sent_s.popleft())
        while self.owed and not self._client.window_is_full:
            self._sent_s.append(time.perf_counter())
            self._client.insert(blocks, max(self.version, 0))
            self._steps += self._steps_of_insert
            self.owed -= 1

    def close(self) -> None:
        if self._weights is not None:
            self._weights.close()
        self._client.close()
        self._membership.leave("the benchmark is over")

    def _values(self) -> dict[str, float]:
        return {
            "actor_env_steps_total": self._steps,
            "actor_episodes_total": self._steps // 1_000,
            "actor_blocked_seconds_total": 0.0,
            "actor_unacknowledged_inserts": self._client.unacknowledged,
            "actor_resent_inserts_total": self._client.resent,
            "actor_abandoned_inserts_total": self._client.abandoned,
            "actor_weights_version": self.version,
            **self._membership.rejections.values(),
        }


class _Host:
    """All actors of a host, one after the other."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        plan: Plan,
        head: str,
        host: int,
        count: int,
    ) -> None:
        self._plan = plan
        self._pool = _experience(plan.workload, host)

        with ThreadPoolExecutor(JOINING) as joining:
            self._actors = list(
                joining.map(lambda _: _SimulatedActor(context, plan, head), range(count))
            )
        # All at once, and read from then on: each late subscriber has the current version sent to
        # all others again.
        self._subscribers = self._actors[:1] if plan.weights_to == "hosts" else self._actors
        for actor in self._subscribers:
            actor.subscribe()
        self._busy: dict[int, _SimulatedActor] = {}
        """Actors with something to send or to hear of, the one that waits longest first."""
        self._paced_s: float | None = None
        self._handed_out = 0
        """Of the inserts that are due: those that an actor knows of."""
        self._visits = 0
        self._began_s = time.perf_counter()
        self._ack_s: list[float] = []
        self._told = 0
        """Acknowledgements of earlier readings."""
        self._versions: dict[int, float] = {}

    def run(self, driver: Connection) -> None:
        while True:
            while driver.poll():
                driver.send(self._answer(driver.recv()))
            now_s = time.perf_counter()
            self._visit(now_s)
            if self._paced_s is not None:
                self._owe(now_s)
            self._turn()

    def close(self) -> None:
        for actor in self._actors:
            actor.close()

    def _answer(self, command: str) -> Any:
        if command == "read":
            return self._read()
        if command == "endpoints":
            replays = frozenset(actor.replay_endpoint for actor in self._actors)
            return Endpoints(self._actors[0].weights_endpoint, replays)
        if command == "carried":
            return carried_by_port()
        if command == "pace":
            self._paced_s, self._handed_out = time.perf_counter(), 0
            for actor in self._actors:
                actor.owed = 0
        return None

    def _visit(self, now_s: float) -> None:
        """Each actor once a period, evenly over the time; those that take weights in between."""
        if self._plan.weights_to == "hosts":
            self._look_for_weights(self._actors[0])
        count = len(self._actors)
        due = int((now_s - self._began_s) / VISIT_PERIOD_S * count)
        # One that was held up visits each once, not once for each period that it missed.
        for visit in range(max(self._visits, due - count), due):
            actor = self._actors[visit % count]
            self._look_for_weights(actor)
            actor.turn(self._pool[0], self._ack_s)
        self._visits = due

    def _look_for_weights(self, actor: _SimulatedActor) -> None:
        if actor.visit():
            self._versions[actor.version] = time.monotonic()

    def _owe(self, now_s: float) -> None:
        """Who is to insert: in turn, evenly over the time."""
        if self._plan.inserts_per_s is None:
            # As much as its window takes.
            for i, actor in enumerate(self._actors):
                actor.owed = self._plan.workload.in_flight
                self._busy[i] = actor
            return
        due = self._inserts_due(now_s)
        for insert in range(self._handed_out, due):
            number = insert % len(self._actors)
            self._actors[number].owed += 1
            self._busy.setdefault(number, self._actors[number])
        self._handed_out = due

    def _inserts_due(self, now_s: float) -> int:
        """Since the pace was set."""
        rate = self._plan.inserts_per_s
        if self._paced_s is None or rate is None:
            return 0
        return int((now_s - self._paced_s) * rate * len(self._actors))

    def _turn(self) -> None:
        if not self._busy:
            time.sleep(self._idle_s())
            return
        timeout_ms = WAIT_MS
        for number, actor in list(self._busy.items()):
            actor.turn(self._pool[number % POOL], self._ack_s, timeout_ms)
            timeout_ms = 0  # Acknowledgements come in the order of inserts, mostly.
            if actor.is_idle:
                del self._busy[number]

    def _idle_s(self) -> float:
        """Until the next insert is due, or another look."""
        rate = self._plan.inserts_per_s
        if self._paced_s is None or not rate:
            return IDLE_S
        due_s = self._paced_s + (self._handed_out + 1) / (rate * len(self._actors))
        return min(max(due_s - time.perf_counter(), 0.0), IDLE_S)

    def _read(self) -> HostReading:
        taken, self._ack_s = self._ack_s, []
        self._told += len(taken)
        now_s = time.perf_counter()
        return HostReading(
            now_s,
            time.process_time(),
            psutil.Process().memory_info().rss,
            self._inserts_due(now_s),
            self._told,
            taken,
            dict(self._versions),
            1 + min((actor.version for actor in self._subscribers), default=-1),
        )


def _experience(workload: Workload, host: int) -> list[Blocks]:
    """Inserts that actors send again and again."""
    seeds = (host * POOL + i for i in range(POOL))
    return [Blocks(**workload.experience(seed)._asdict()) for seed in seeds]
