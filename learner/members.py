"""The members of a run, and which of them serves which."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from common.messages import Serving
from common.metrics import Values
from learner.assignment import assign

ANSWER_PERIOD_S = 4.0
"""A member that there is nothing new for is answered this often: enough to know that the head is
there, and to make up for a word that was lost."""


@dataclass(slots=True)
class Member:
    """A process of the run."""

    session: int
    role: str
    number: int
    host: str
    machine: str
    pid: int
    token: int
    peer: bytes
    first_env_index: int
    num_envs: int
    last_heard_s: float
    metrics_endpoint: str = ""
    """host:port where Prometheus can scrape it; empty: it cannot."""
    serving: Serving | None = None
    """Where a replay server, an inference process or a relay listens."""
    values: Values = field(default_factory=dict)
    """Its newest counters and gauges."""
    returns: dict[int, deque[float]] = field(default_factory=dict)
    """Raw returns of the newest episodes, by environment of this actor."""
    answered_s: float = -ANSWER_PERIOD_S
    answered_revision: int = -1
    """When its last heartbeat was answered, and in which state of the run."""


class Services:
    """Where members reach those that serve them; worked out when members come and go."""

    def __init__(self) -> None:
        self.replay_servers: dict[int, Serving] = {}
        """Those that serve, by number."""
        self._replay_endpoints: dict[int, str] = {}
        """Where each server was reached last, by number."""
        self._assigned: dict[int, int] = {}
        """Number of the server that each actor writes to, by session."""
        self._inference: dict[str, str] = {}
        self._relays: dict[str, str] = {}
        """Both by host; of several the last that joined: one that died without a word may still be
        a member."""

    def update(self, members: Collection[Member], replaced: Collection[int]) -> None:
        """These are the members now.

        Args:
            replaced: numbers of replay servers whose successor is being taken in.
        """
        replays = [m for m in members if m.role == "replay_server"]
        serving = {m.number: m.serving for m in replays if m.serving is not None}
        self.replay_servers = dict(sorted(serving.items()))
        self._replay_endpoints |= {n: s.endpoint for n, s in serving.items()}
        # One that was started in a dead one's place is about to serve where that one did.
        numbers = {m.number for m in replays} | set(replaced)
        actors = {m.session: m.num_envs for m in members if m.role == "actor"}
        there = sorted(numbers & self._replay_endpoints.keys())
        self._assigned = assign(actors, self._assigned, there)
        self._inference, self._relays = _by_host(members, "inference"), _by_host(members, "relay")

    def replay_endpoint(self, member: Member) -> str:
        """Where an actor's experience goes; empty for others."""
        number = self._assigned.get(member.session)
        return "" if number is None else self._replay_endpoints[number]

    def inference_endpoint(self, member: Member) -> str:
        """Of the inference process on its host; empty: there is none."""
        return self._inference.get(member.machine, "")

    def relay_endpoint(self, member: Member) -> str:
        """Of the relay on its host, for weights to act with: those to evaluate come from the head
        alone. Empty: there is none."""
        acts = member.role in ("actor", "inference")
        return self._relays.get(member.machine, "") if acts else ""


def _by_host(members: Collection[Member], role: str) -> dict[str, str]:
    those = (m for m in members if m.role == role)
    return {m.machine: m.serving.endpoint for m in those if m.serving is not None}
