"""Behind the decoder: what the roles' cores make of messages that nobody should believe.

Each target is a core as a run has it, small, with what must hold whatever it is told: a message
that is refused changes nothing, sums stay sums, nothing that a stranger can make grow grows
beyond its bound, and nothing but a WireError is raised.
"""

import copy
import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
import zmq

import learner.admission
import learner.head
import replay_server.sessions
import replay_server.table
import tests.unit.replay_server.tables
from actor.inference_server import InferenceBatch
from actor.policy import Policy
from common import codec, transport
from common.config import Config
from common.errors import JoinRefused, MalformedMessage, WireError
from common.manifest import Manifest
from common.membership import Membership
from common.messages import (
    Ack,
    Directive,
    InferenceRequest,
    Join,
    Leave,
    Message,
    Refused,
    Rejected,
    SampleRequest,
    Serving,
    Weights,
    Welcome,
)
from common.networks import build_network
from common.spec import EnvSpec
from replay_server.table import Table
from replay_server.waiting import HELD_BESIDES
from tests.experience import insert, steps
from tests.fuzz.mutations import Frames
from tests.fuzz.peers import Liar, frames_of
from tests.head_with_peers import MANIFEST, Run, heartbeat, join, result
from tests.unit.replay_server.tables import make_table, request

FEW = 40
"""What is thousands in a run is so many here, for the bounds to be met."""


class Target(Protocol):
    """One core."""

    def examples(self) -> list[Message]:
        """What it is told in a good run, now."""

    def take(self, message: Message) -> str:
        """Tell it; how it answered. Raises AssertionError when something does not hold."""


class TableTarget:
    """The replay table, with an exponent of 1, which makes the largest sums."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        with patch.object(tests.unit.replay_server.tables, "EXPONENT", 1.0):
            self._table = make_table(samples_per_insert=4.0, tolerance=32.0, insert_window=3)
        self._peers = chance.choice((3, 2 * FEW))
        self._sequence = itertools.count()
        self._now_s = 0.0

    def examples(self) -> list[Message]:
        number = next(self._sequence)
        newest = int(self._table.storage.next_number) * 4
        keys = [(newest - self._chance.randrange(20), 1.0) for _ in range(3)]
        return [
            insert(steps(2), session=1, sequence=number, oldest=0),
            insert(steps(), session=self._chance.randrange(1 << 40), sequence=0),
            request(2, keys),
            SampleRequest(1, keys_only=True),
        ]

    def take(self, message: Message) -> str:
        table, peer = self._table, bytes([self._chance.randrange(self._peers)])
        self._now_s += 0.01
        before, count = self._fingerprint(table), table.rejections.total
        replies = table.handle(peer, message, self._now_s)
        if table.rejections.total > count:
            assert isinstance(replies[-1][1], Rejected)
            assert self._fingerprint(table) == before, "a message that was refused left traces"
        for to, reply in replies:
            if self._chance.random() < 0.05:
                table.forget(to)
            codec.decode(codec.encode(reply))
        assert len(table._sessions) <= FEW + len(table._waiting) + 1
        assert len(table._owed) <= min(FEW, self._peers)
        assert len(table._waiting) <= FEW
        assert all(1 <= owed.batches <= 64 for owed in table._owed.values())
        self._check_tree(table)
        return type(replies[0][1]).__name__ if replies else "nothing"

    @staticmethod
    def _fingerprint(table: Table) -> str:
        found = hashlib.blake2b()
        for name in ("number", "session", "sequence", "obs", "action", "reward", "priority"):
            found.update(np.ascontiguousarray(getattr(table.storage, name)))
        # Of the peers as of the limiter: what may change what comes after.
        found.update(repr(sorted(table._sessions.items())).encode())
        found.update(repr((table._owed, len(table._waiting), table.limiter.error)).encode())
        return found.hexdigest()

    @staticmethod
    def _check_tree(table: Table) -> None:
        nodes = table.sampler._tree._nodes  # type: ignore[attr-defined]
        inner = len(nodes) // 2
        assert np.isfinite(nodes[1:]).all(), "the tree's sums are no numbers"
        np.testing.assert_allclose(nodes[1:inner], nodes[2::2] + nodes[3::2], rtol=1e-5)
        assert np.count_nonzero(nodes[inner:]) == table.sampler.size


class HeadTarget:
    """Membership, scores and metrics of a run."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._run = Run(serving=chance.random() < 0.7)
        self._evaluator = self._session("evaluator")

    def _session(self, role: str) -> int:
        answers = self._run.send(role.encode(), join(role))
        found = [m.session for _, m in answers if isinstance(m, Welcome)]
        return found[0] if found else 0

    def examples(self) -> list[Message]:
        sessions = [*self._run.head.members, 12345]
        session = self._chance.choice(sessions)
        beat = heartbeat(session, [1.0, 2.0], actor_env_steps_total=7.0, actor_weights_version=3.0)
        beat.histograms["actor_step_seconds"] = np.ones(23)
        return [
            join(num_envs=self._chance.randrange(6), host=self._chance.choice("ab")),
            join("inference", machine="m"),
            join("replay_server"),
            beat,
            Serving(session, "tcp://127.0.0.1:1"),
            result(self._evaluator, [1.0]),
            Leave(session, "done"),
        ]

    def take(self, message: Message) -> str:
        run, head = self._run, self._run.head
        run.now_s += self._chance.choice((0.0, 0.1, 5.0))
        peer = bytes([self._chance.randrange(60)])
        count = head.rejections.total
        replies = run.send(peer, message)
        if self._chance.random() < 0.02:
            replies += head.tick(run.now_s)
        for _, reply in replies:
            codec.decode(codec.encode(reply))
        if any(isinstance(reply, Refused) for _, reply in replies):
            assert head.rejections.total > count
        assert len(head.members) <= FEW
        assert len(head._waiting) <= FEW
        assert len(head._incarnations) <= FEW * 4
        assert head.metrics._sessions.keys() <= head.members.keys()
        assert sum(m.num_envs for m in head.members.values()) <= learner.head.MAX_ENVS
        assert len(head._new_returns) <= learner.head.MAX_NEW_EPISODES
        if self._chance.random() < 0.1:
            # What sinks and Prometheus get.
            json.dumps(head.metrics.record(), allow_nan=False)
            json.dumps(list(head.recent_returns), allow_nan=False)
            head.take_evaluations()
        return type(replies[0][1]).__name__ if replies else "nothing"


class ActorTarget:
    """What an actor and an inference process take of head and actors: weights, requests."""

    def __init__(self, chance: random.Random) -> None:
        config = Config(hidden_sizes=(4,))
        self._manifest = Manifest("r", config, EnvSpec((4,), "<f4", 2))
        self._batch = InferenceBatch(self._manifest, pinned=False)
        self._policy = Policy(self._manifest)
        network = build_network(config, self._manifest.spec)
        self._weights = {name: t.numpy() for name, t in network.state_dict().items()}
        self._policy.load(Weights(0, 0, self._weights))

    def examples(self) -> list[Message]:
        return [
            Weights(0, 1, self._weights),
            InferenceRequest(1, np.zeros((3, 4), np.float32)),
        ]

    def take(self, message: Message) -> str:
        if isinstance(message, Weights):
            before = self._parameters()
            try:
                self._policy.load(message)
            except MalformedMessage as error:
                assert all(map(np.array_equal, self._parameters(), before))
                return str(error.reason)
            assert all(np.isfinite(p).all() for p in self._parameters())
            self._policy.load(Weights(0, 0, self._weights))
            return "loaded"
        if isinstance(message, InferenceRequest):
            try:
                self._batch.check(message.obs)
            except MalformedMessage as error:
                return str(error.reason)
            rows = self._batch.put([message.obs])
            assert rows.shape == (len(message.obs), 4)
            return "put"
        return "ignored"

    def _parameters(self) -> list[Any]:
        return [p.numpy().copy() for p in self._policy._network.state_dict().values()]


class MemberTarget:
    """An actor's membership, under a malicious head."""

    def __init__(self, chance: random.Random) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._address = f"inproc://malicious-{chance.getrandbits(60)}"
        self._head, _ = transport.bind(self._context, zmq.ROUTER, self._address)
        self._now_s = 0.0
        self._join()

    def _join(self) -> None:
        self._member = Membership(self._context, self._address, "actor")
        self._member._send_join()
        said: Message | None = None
        while not isinstance(said, Join):  # What the one before had to say comes first.
            assert transport.wait(self._head, 10_000)
            frames = transport.receive_frames(self._head)
            assert frames is not None
            self._peer, said = bytes(frames[0]), codec.decode(frames[1:])
        self._tell(self.examples()[0])

    def _tell(self, message: Message) -> None:
        self._head.send_multipart([self._peer, *frames_of(message)])
        assert transport.wait(self._member._socket, 10_000)
        self._now_s += 1.0
        self._member._receive(self._now_s)
        while transport.has_message(self._head):
            transport.receive_frames(self._head)

    def examples(self) -> list[Message]:
        plain = copy.deepcopy(MANIFEST.to_plain())
        welcome = Welcome(
            7, 0, 0, 0, 0, 8, plain, "tcp://127.0.0.1:1", "tcp://127.0.0.1:2",
        )  # fmt: skip
        directive = Directive(7, "run", 8, "tcp://0.0.0.0:3", "tcp://127.0.0.1:4")
        return [welcome, directive, Ack(0, 0)]

    def take(self, message: Message) -> str:
        member = self._member
        manifest = member.manifest
        try:
            self._tell(message)
        except JoinRefused as error:
            refusal = str(error)
            member.leave("")
            self._join()
        else:
            refusal = ""
        if refusal:
            assert len(refusal) < 2_000
            assert member.manifest == manifest
            return "refused"
        assert member.welcome.number >= 0
        assert transport.is_endpoint(member.replay_endpoint)
        return "taken"

    def close(self) -> None:
        self._member.leave("")
        self._head.close(linger=0)


TARGETS = (TableTarget, HeadTarget, ActorTarget, MemberTarget)


@contextmanager
def small_bounds() -> Iterator[None]:
    with (
        patch.object(replay_server.sessions, "MAX_REMEMBERED_SESSIONS", FEW),
        patch.object(replay_server.table, "MIN_WAITING_BYTES", FEW // 2 * HELD_BESIDES),
        patch.object(replay_server.table, "MAX_LEARNERS", FEW),
        patch.object(learner.head, "MAX_MEMBERS", FEW),
        patch.object(learner.head, "MAX_WAITING", FEW),
        patch.object(learner.head, "MAX_NEW_EPISODES", FEW),
    ):
        yield


def believe(frames: Frames, target: Target) -> str:
    """Tell a target what these frames say; how it answered. Raises what should not happen."""
    try:
        message = codec.decode(frames)
    except WireError as error:
        return f"decoder: {error.reason}"
    return target.take(message)


def fuzz_behind(seed: str, inputs: int, kind: type[Any]) -> set[str]:
    """As many messages to one target, which is a new one now and then; the answers it gave.

    Raises AssertionError with the seed when something does not hold.
    """
    liar = Liar(seed)
    answers: set[str] = set()
    with small_bounds():
        target: Any = None
        for i in range(inputs):
            if i % 2_000 == 0:
                if hasattr(target, "close"):
                    target.close()
                target = kind(liar.random)
            message = liar.changed(liar.random.choice(target.examples()))
            frames = frames_of(message)
            try:
                answers.add(believe(frames, target))
            except BaseException as error:
                error.add_note(f"{kind.__name__}, seed {seed!r}, input {i}: {message!r:.600}")
                raise
        if hasattr(target, "close"):
            target.close()
    return answers
