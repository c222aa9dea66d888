"""A head and the peers that talk to it, for tests: messages in, exact replies out."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from common.config import Config
from common.manifest import Manifest
from common.messages import (
    Directive,
    EvalResult,
    Heartbeat,
    Join,
    Message,
    Serving,
    Welcome,
)
from common.spec import EnvSpec
from learner.head import Head

MANIFEST = Manifest(
    "r1", Config(actors=2, envs_per_actor=4, block_length=8), EnvSpec((4,), "<f4", 2)
)
REPLAY = "tcp://replay:7000"
WEIGHTS = "tcp://head:5551"
TOKENS = itertools.count(1)


def join(role: str = "actor", **changes: Any) -> Join:
    # A process of its own each time, unless the token is among the changes.
    token = next(TOKENS)
    return replace(Join(role, "host-a", 1, 0, -1, take_over=False, token=token), **changes)


def heartbeat(session: int, returns: list[float] | None = None, **metrics: float) -> Heartbeat:
    values = returns or []
    return Heartbeat(
        session,
        metrics,
        np.array(values, np.float32),
        np.ones(len(values), np.int32),
        np.zeros(len(values), np.int32),
    )


def result(session: int, returns: list[float]) -> EvalResult:
    return EvalResult(
        session, 0, 1, 0.1, np.array(returns, np.float32), np.ones(len(returns), np.int32)
    )


class Run:
    """A head and the peers that talk to it; sessions are 100, 101, …"""

    def __init__(self, manifest: Manifest = MANIFEST, serving: bool = True) -> None:
        sessions: Iterator[int] = count(100)
        self.head = Head(manifest, WEIGHTS, new_session=lambda: next(sessions))
        self.now_s = 0.0
        self._pids = count(1000)
        if serving:
            replay = self.welcome(b"replay", join("replay_server"))
            self.send(b"replay", Serving(replay.session, REPLAY))

    def send(self, peer: bytes, message: Message) -> list[tuple[bytes, Message]]:
        return self.head.handle(peer, message, self.now_s)

    def welcome(self, peer: bytes, message: Join) -> Welcome:
        """Joins, and returns the answer to the peer itself. Each peer is a process of its own."""
        if message.pid == 1:
            message = replace(message, pid=next(self._pids))
        answers = [m for p, m in self.send(peer, message) if p == peer and isinstance(m, Welcome)]
        assert len(answers) == 1
        return answers[0]

    @property
    def replay_endpoints(self) -> list[str]:
        """Of those that serve."""
        return [serving.endpoint for serving in self.head.replay_servers.values()]

    def places(self) -> dict[int, tuple[int, int]]:
        """Actor number → its stretch of the ε ladder."""
        return {m.number: (m.first_env_index, m.num_envs) for m in self.head.of_role("actor")}


def directive(
    session: int, run_state: str = "run", ladder_size: int = 8, replay: str = REPLAY
) -> Directive:
    """What an actor is told; others have no `replay`."""
    return Directive(session, run_state, ladder_size, replay)
