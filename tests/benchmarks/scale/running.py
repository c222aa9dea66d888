"""Starts a run as its plan says, with real servers, and measures a window of it."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from deploy.status_client import StatusClient
from tests.benchmarks.end_to_end import free_port
from tests.benchmarks.own_replay import SHARED_MEMORY
from tests.benchmarks.scale.actors import HostReading, simulate
from tests.benchmarks.scale.head import HeadReading, serve_head
from tests.benchmarks.scale.plan import Plan
from tests.benchmarks.served import child, hear
from tests.tcp_bytes import Carried, at_ports, port_of

START_TIMEOUT_S = 300.0
POLL_S = 0.05
SETTLE_S = 3.0
"""From when the pace is set to the window's begin."""


@dataclass(frozen=True, slots=True)
class ServerReading:
    """A process that is nothing but what a user would start."""

    cpu_s: float
    resident: int
    """Bytes; a storage that others may map is among them."""
    shared: int
    """Of those, bytes of files and shared memory."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All processes of a run at one moment."""

    head: HeadReading
    replays: Sequence[ServerReading]
    hosts: Sequence[HostReading]


@dataclass(frozen=True, slots=True)
class Measured:
    """A window of a run. Shares are of one core."""

    offered_per_s: float
    """Transitions that were due."""
    stored_per_s: float
    """Transitions that were acknowledged."""
    batches_due_per_s: float
    batches_per_s: float
    ack_p50_s: float
    ack_p99_s: float
    ack_max_s: float
    control: float
    """Of the head: its control thread, which hears every actor, and what records."""
    zeromq: float
    """Of the head: ZeroMQ's threads."""
    feed: float
    """Of the head: what fetches batches, and uses them up here."""
    replay: float
    """Of all replay servers."""
    simulators: float
    head_bytes: int
    """Resident and its own alone."""
    replay_bytes: int
    """The same of all replay servers, and their storage."""
    weights_p50_s: float
    """From publishing a version to when a host's actors have it, over hosts and versions; NaN:
    there was none."""
    weights_max_s: float
    insert_bytes: float
    """On the wire, of an insert."""
    batch_bytes: float
    """On the wire, of a batch: in, and its priorities out."""
    control_bytes_per_s: float
    """On the wire, of an actor: to the head, and from it."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the head's and the actors' connections have carried by a moment."""

    at_s: float
    control: Carried
    """Between members and the head, as the head sees it."""
    inserts: Carried
    """Between actors and replay servers, as the actors see it."""
    batches: Carried
    """Between replay servers and the head, as the head sees it."""


def measured(
    plan: Plan, first: Reading, last: Reading, before: Traffic, after: Traffic
) -> Measured:
    """What lies between two readings, with the traffic around them."""
    size = plan.workload.insert_size
    hosts = list(zip(first.hosts, last.hosts, strict=True))
    # Each process has a clock reading of its own: it is asked a little later than the one before.
    seconds = [b.at_s - a.at_s for a, b in hosts]
    head_s = last.head.at_s - first.head.at_s
    ack_s = np.array([x for _, b in hosts for x in b.ack_s] or [np.nan])
    ages_s = np.array(_ages_s(first, last) or [np.nan])
    cpu = {kind: last.head.cpu_s[kind] - first.head.cpu_s[kind] for kind in last.head.cpu_s}
    due, done = (
        sum(
            size * (getattr(b, name) - getattr(a, name)) / s
            for (a, b), s in zip(hosts, seconds, strict=True)
        )
        for name in ("inserts_due", "inserts")
    )
    return Measured(
        offered_per_s=due,
        stored_per_s=done,
        batches_due_per_s=(last.head.batches_due - first.head.batches_due) / head_s,
        batches_per_s=(last.head.batches - first.head.batches) / head_s,
        ack_p50_s=float(np.percentile(ack_s, 50)),
        ack_p99_s=float(np.percentile(ack_s, 99)),
        ack_max_s=float(ack_s.max()),
        control=cpu["control"] / head_s,
        zeromq=cpu["zeromq"] / head_s,
        feed=cpu["feed"] / head_s,
        replay=sum(b.cpu_s - a.cpu_s for a, b in zip(first.replays, last.replays, strict=True))
        / head_s,
        simulators=sum((b.cpu_s - a.cpu_s) for a, b in hosts) / head_s,
        head_bytes=last.head.resident - last.head.shared,
        replay_bytes=sum(replay.resident for replay in last.replays),
        weights_p50_s=float(np.percentile(ages_s, 50)),
        weights_max_s=float(ages_s.max()),
        # Of all since they joined.
        insert_bytes=after.inserts.sent / max(sum(host.inserts for host in last.hosts), 1),
        batch_bytes=(after.batches.sent + after.batches.received) / max(last.head.all_batches, 1),
        control_bytes_per_s=_bytes_per_s(before, after) / plan.actors,
    )


def _bytes_per_s(before: Traffic, after: Traffic) -> float:
    """Bytes per second, both ways, between all members and the head."""
    sent = after.control.sent - before.control.sent
    received = after.control.received - before.control.received
    return (sent + received) / (after.at_s - before.at_s)


def _ages_s(first: Reading, last: Reading) -> list[float]:
    """Of the versions that were published and had by a host between two readings."""
    return [
        had_s - last.head.versions[version]
        for host in last.hosts
        for version, had_s in host.versions.items()
        if version not in first.head.versions and version in last.head.versions
    ]


class Running:
    """A run of simulated actors, all of which have joined."""

    def __init__(
        self,
        plan: Plan,
        address: str,
        head: Connection,
        replays: "Sequence[subprocess.Popen[bytes]]",
        hosts: Sequence[Connection],
        joined_s: float,
    ) -> None:
        self.plan, self.address = plan, address
        self._head, self._replays, self._hosts = head, replays, hosts
        endpoints = [_ask(host, "endpoints") for host in hosts]
        self._weights_port = port_of(endpoints[0].weights)
        self._replay_ports = {port_of(to) for found in endpoints for to in found.replays}
        self.joined_s = joined_s
        """In which the last of the actors was taken in, all asking at once."""

    def window(self, window_s: float) -> Measured:
        """Sets the pace, lets the run settle and measures it."""
        self.pace()
        self._wait_until_moving()
        # What was late while something was compiled is not to be made up for.
        self.pace()
        before = self.traffic()
        time.sleep(SETTLE_S)
        first = self.read()
        time.sleep(window_s)
        last = self.read()
        return measured(self.plan, first, last, before, self.traffic())

    def _wait_until_moving(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        wants_batches = self.plan.batches_per_s != 0
        while time.monotonic() < deadline_s:
            seen = self.read()
            batches = seen.head.batches or not wants_batches
            if batches and all(host.inserts for host in seen.hosts):
                return
            time.sleep(POLL_S)
        raise TimeoutError(f"no experience or no batch moved within {START_TIMEOUT_S:.0f} s")

    def pace(self) -> None:
        """Inserts and batches are due from now on."""
        for process in (*self._hosts, self._head):
            _ask(process, "pace")

    def read(self) -> Reading:
        return Reading(
            _ask(self._head, "read"),
            [_server(process.pid) for process in self._replays],
            [_ask(host, "read") for host in self._hosts],
        )

    def publish(self) -> int:
        """A version of the weights; returns its number."""
        version: int = _ask(self._head, "publish")
        return version

    def traffic(self) -> Traffic:
        of_head, of_hosts = self.carried(), Carried()
        for host in self._hosts:
            of_hosts += at_ports(_ask(host, "carried"), self._replay_ports)
        return Traffic(
            time.perf_counter(),
            at_ports(of_head, [port_of(self.address)]),
            of_hosts,
            at_ports(of_head, self._replay_ports),
        )

    def weights_sent(self) -> int:
        """Bytes that the head has sent to its subscribers."""
        return at_ports(self.carried(), [self._weights_port]).sent

    def carried(self) -> dict[int, Carried]:
        """On the head's connections, by port."""
        found: dict[int, Carried] = _ask(self._head, "carried")
        return found


@contextmanager
def running(plan: Plan) -> Iterator[Running]:
    """All processes of a run, for as long as the context lasts; actors have joined."""
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="zapex-", dir=SHARED_MEMORY))
        )
        head = stack.enter_context(child(serve_head, plan))
        address: str = hear(head)
        replays = []
        for i in range(plan.replay_servers):
            port = free_port()
            # Loopback by a name that does not say so: experience is sent as between hosts.
            flags = ["--bind", f"tcp://127.0.0.1:{port}", "--advertise", f"tcp://127.1:{port}"]
            if plan.link == "shared_memory":
                flags += ["--storage", str(directory / f"storage-{i}")]
            log = directory / f"replay_server-{i}.log"
            replays.append(stack.enter_context(_program("replay_server", address, flags, log)))
        wait_for(address, "replay_server", plan.replay_servers)
        if plan.weights_to == "relay":
            # It is known to others once it has weights.
            _ask(head, "publish")
            log = directory / "relay.log"
            stack.enter_context(_program("actor", address, ["--relay"], log))
            wait_for(address, "relay", 1, lambda values: values.get("relay_versions_total", 0) > 0)
        hosts = [
            stack.enter_context(child(simulate, plan, address, host, count))
            for host, count in enumerate(plan.actors_of_host)
        ]
        joined_s = max([hear(host, START_TIMEOUT_S) for host in hosts])
        yield Running(plan, address, head, replays, hosts, joined_s)
        # The servers end before the head does, which would miss them.
        _ask(head, "rest")


def _ask(process: Connection, command: str) -> Any:
    process.send(command)
    return hear(process, START_TIMEOUT_S)


def _server(pid: int) -> ServerReading:
    process = psutil.Process(pid)
    with process.oneshot():
        times, memory = process.cpu_times(), process.memory_info()
    return ServerReading(times.user + times.system, memory.rss, memory.shared)


@contextmanager
def _program(
    role: str, head: str, flags: Sequence[str], log: Path
) -> "Iterator[subprocess.Popen[bytes]]":
    """`python -m ROLE --connect HEAD`, as a user would start it."""
    command = [sys.executable, "-m", role, "--connect", head, *flags]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(
    address: str,
    role: str,
    count: int,
    reached: Callable[[dict[str, float]], bool] = lambda values: True,
) -> list[dict[str, float]]:
    """The newest counters of each member of a role, once there are so many that have reached it."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    with closing(StatusClient(address)) as status:
        while time.monotonic() < deadline_s:
            fresh = status.latest()
            members = [] if fresh is None else fresh["members"]
            found = [m["values"] for m in members if m["role"] == role]
            if len(found) >= count and all(map(reached, found)):
                return found
            time.sleep(POLL_S)
    raise TimeoutError(f"no {count} × {role} within {START_TIMEOUT_S:.0f} s")
