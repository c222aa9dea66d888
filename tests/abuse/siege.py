"""A real run under attack: what must hold meanwhile and afterwards."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from common.blocks import BlockLayout
from common.config import Config
from common.environments import probe_spec
from common.keys import Keys
from common.membership import Membership
from common.messages import Insert
from common.metrics import Telemetry
from common.security import NOTHING_TOLD, SecureContext, Security
from common.spec import EnvSpec
from deploy.status_client import StatusClient
from replay_server.storage import Storage
from tests.abuse.attacks import Attack, Ports
from tests.integration.runs import until

MB = 1 << 20
GROWTH_LIMIT_MB = 300
"""By which a process may grow under attack: queues of messages for each connection, both ways."""
STANDSTILL_S = 20.0
"""A run that was not seen to train for so long stands still. A few seconds are a few updates where
both processors have other work."""
STRANGERS_HOST = "stranger"


@dataclass
class Report:
    """What became of the run."""

    seconds: float = 0.0
    attempts: dict[str, int] = field(default_factory=dict)
    """Of each attack."""
    updates: list[int] = field(default_factory=list)
    """Of the learner, seen one after the other while the attacks went on."""
    rejected: dict[str, float] = field(default_factory=dict)
    """Messages, by metric and reason; handshakes, by metric."""
    growth_mb: dict[str, float] = field(default_factory=dict)
    """Of each process, at its largest."""
    descriptors: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of each process, before the attacks and after."""
    restarts: int = 0


def ports_of(
    head: str, config: Config, security: Security = NOTHING_TOLD, shown: Keys | None = None
) -> Ports:
    """Where a run listens, as it tells anyone who joins.

    Args:
        security: with keys that are allowed to ask.
        shown: the attackers' keys, if they have any.
    """
    spec, layout = probe_spec(config), layout_of(config)
    with (
        SecureContext(security) as context,
        Membership(context, head, "actor", num_envs=1) as member,
    ):
        member.join(time.monotonic, threading.Event())
        until(lambda: _inference(member), "the run has its inference process")
        return Ports(
            head,
            member.weights_endpoint,
            member.replay_endpoint,
            member.inference_endpoint,
            Insert(
                member.welcome.session, 0, 0,
                np.zeros((1, layout.rows, *spec.obs_shape), spec.dtype),
                np.zeros((1, layout.rows), np.int32),
                np.zeros((1, layout.rows), np.float32),
                np.zeros((1, layout.rows), np.uint8),
                np.ones((1, layout.length), np.float32),
            ),
            shown,
            security.keys.server if security.keys is not None else b"",
        )  # fmt: skip


def _inference(member: Membership) -> bool:
    member.poll(time.monotonic(), Telemetry(dict))
    return bool(member.inference_endpoint)


def layout_of(config: Config) -> BlockLayout:
    return BlockLayout(config.block_length, config.n_step, context=config.frame_stack - 1)


class Siege:
    """Attacks a run while it watches it.

    Args:
        learner: its process, which the head is part of.
        ports: where it listens.
        security: with keys that are allowed to ask for its status.
    """

    def __init__(self, learner: int, ports: Ports, security: Security = NOTHING_TOLD) -> None:
        self._ports, self._security = ports, security
        self._learner = learner
        self.report = Report()

    def hold(self, attacks: Sequence[Attack], seconds: float) -> Report:
        """All attacks at once for so long, and on until the run has trained or stands still."""
        report, stop = self.report, threading.Event()
        before = self._members()
        processes = {name: psutil.Process(pid) for name, pid in before.items()}
        size = {name: p.memory_info().rss for name, p in processes.items()}
        report.descriptors = {name: (p.num_fds(), 0) for name, p in processes.items()}
        threads = [
            threading.Thread(target=self._attack, args=(attack, stop), name=attack.__name__)
            for attack in attacks
        ]
        began_s = time.monotonic()
        with self._client() as client:
            for thread in threads:
                thread.start()
            try:
                while (passed_s := time.monotonic() - began_s) < seconds or (
                    not self._trained() and passed_s < STANDSTILL_S
                ):
                    time.sleep(0.1)
                    self._look(client.latest(), processes, size)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
        report.seconds = time.monotonic() - began_s
        return report

    def _trained(self) -> bool:
        """Whether the learner was seen to go on under attack."""
        updates = self.report.updates
        return bool(updates) and updates[-1] > updates[0]

    def _attack(self, attack: Attack, stop: threading.Event) -> None:
        self.report.attempts[attack.__name__] = attack(self._ports, stop)

    def _look(
        self,
        status: dict[str, Any] | None,
        processes: dict[str, psutil.Process],
        size: dict[str, int],
    ) -> None:
        for name, process in processes.items():
            grown = (process.memory_info().rss - size[name]) / MB
            self.report.growth_mb[name] = max(self.report.growth_mb.get(name, 0.0), grown)
        if status is not None:
            self.report.updates.append(status["learner"]["updates"])

    def after(self, counted: Sequence[str] = ()) -> Report:
        """What the run says of itself now that it is over.

        Args:
            counted: of what was refused; a member tells with its next heartbeat, which on a loaded
                machine takes its time.
        """

        def told() -> dict[str, Any] | None:
            now = self.status()
            return now if all(now["refused"].get(name, 0) > 0 for name in counted) else None

        now = until(told, f"these are counted: {', '.join(counted)}")
        report = self.report
        for name, pid in self._members().items():
            if name in report.descriptors:
                report.descriptors[name] = (
                    report.descriptors[name][0],
                    psutil.Process(pid).num_fds(),
                )
        report.rejected = now["refused"]
        return report

    def status(self) -> dict[str, Any]:
        with self._client() as client:
            return until(client.latest, "the head's status")

    def _client(self) -> contextlib.closing[StatusClient]:
        return contextlib.closing(StatusClient(self._ports.head, security=self._security))

    def _members(self) -> dict[str, int]:
        """Process ids of the run's own members, by role and number."""
        return {"learner": self._learner} | {
            f"{m['role']}-{m['number']}": m["pid"]
            for m in self.status()["members"]
            if m["host"] != STRANGERS_HOST
        }


def heard(report: Report) -> bool:
    """Whether any role got to read a message of the attackers."""
    return any("_rejected_messages_total." in name for name in report.rejected)


def gaps(path: Path, config: Config, spec: EnvSpec | None = None) -> dict[int, list[int]]:
    """Inserts that are missing in a storage file, by session: numbers below the highest that is
    there. Raises AssertionError when a block is there twice, or none of an actor."""
    storage = Storage(spec or probe_spec(config), layout_of(config), config.replay_slots, path)
    stored: dict[int, list[int]] = defaultdict(list)
    for slot in storage.filled():
        stored[int(storage.session[slot])].append(int(storage.sequence[slot]))
    assert len(stored) >= config.actors
    found = {}
    for session, sequences in stored.items():
        missing = sorted(set(range(max(sequences) + 1)) - set(sequences))
        if missing:
            found[session] = missing
        # An insert holds a block of each environment whose block was full: not more than those.
        assert max(map(sequences.count, set(sequences))) <= config.envs_per_actor
    return found
