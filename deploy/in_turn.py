"""Every role of a run in turn, in one thread: calls in place of sockets.

    the learner wants a batch and the replay has none to give yet
      → actors step, one after the other, until what one of them inserts brings a batch
        → the learner trains on it, publishes, and is evaluated when that is due

The parts are those of ordinary runs, and so is the training loop: it asks for batches and scores,
and is the only one that runs by itself. No clock decides anything: one only tells when to show how
the run goes. And nothing is under way to anybody, so nothing can arrive in another order.
"""

import contextlib
import os
import socket as host_names
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actor.acting_policy import Interrupted
from actor.evaluation import Scoring
from actor.exploration import epsilon_ladder
from actor.loop import random_numbers
from actor.policy import Policy
from actor.rollout import Rollout
from common.environments import make_vector
from common.errors import WireError
from common.manifest import Manifest
from common.membership import Episode, episode_columns
from common.messages import (
    ACTING,
    EVALUATION,
    Drawn,
    EvalResult,
    Heartbeat,
    Insert,
    Join,
    Message,
    NamedTensors,
    Rejected,
    SampleRequest,
    Serving,
    Weights,
    Welcome,
)
from common.metrics import Histograms, Telemetry, Values
from common.rejections import Rejections
from common.trace import Trace
from deploy.live_view import LiveView
from deploy.topology import replay_storage
from learner.announcement import Announcement
from learner.feed import Feed
from learner.head import Head
from learner.host_batch import HostBatch
from learner.mapped_replay import MappedReplay
from learner.recorder import Recorder
from learner.report import Report
from learner.status import LearnerCounters
from learner.transfer import Transfer
from learner.update import TrainBatch
from replay_server.only_writer import only_writer
from replay_server.server import build_table, table_values
from replay_server.table import Table

RECORD_PERIOD_S = 1.0
ENDPOINT = "inproc://in-turn"
"""Nobody listens there; whoever would announce it knows by it that nobody else can join."""
LEARNER, ACTORS = b"learner", b"actors"
"""Who talks to the table."""
NO_TIME_S = 0.0
"""What the head and the table are told of the time."""


class TurnActor:
    """The core of `actor.loop.Actor`: newest weights, a step, blocks.

    Args:
        newest: the weights to act with.
    """

    def __init__(self, welcome: Welcome, manifest: Manifest, newest: Callable[[], Weights]) -> None:
        config = manifest.config
        self.session = welcome.session
        self._newest = newest
        self._vector = make_vector(
            config, config.envs_per_actor, first_env_index=welcome.first_env_index
        )
        rng, env_seed = random_numbers(config, welcome)
        self._policy = Policy(manifest)
        self._rollout = Rollout(self._vector, manifest, self._policy.q_values, rng, env_seed)
        self._epsilon = epsilon_ladder(
            welcome.first_env_index,
            config.envs_per_actor,
            welcome.ladder_size,
            config.epsilon_base,
            config.epsilon_alpha,
        )
        self._sequence = count()
        self._episodes = 0
        self._untold: list[Episode] = []

    def step(self) -> Iterator[Insert]:
        """One step of all environments; gives the blocks it completed."""
        weights = self._newest()
        if weights.version != self._policy.version:
            self._policy.load(weights)
        for blocks in self._rollout.step(self._epsilon):
            yield Insert(
                self.session,
                next(self._sequence),
                self._policy.version,
                blocks.obs,
                blocks.action,
                blocks.reward,
                blocks.row_kind,
                blocks.priority,
            )
        self._episodes += len(self._rollout.finished)
        self._untold += self._rollout.finished
        self._rollout.finished.clear()

    def heartbeat(self) -> Heartbeat:
        """What it has done, and the episodes that ended since the last one."""
        values: Values = {
            "actor_env_steps_total": self._rollout.env_steps,
            "actor_episodes_total": self._episodes,
            "actor_weights_version": self._policy.version,
        }
        untold, self._untold = self._untold, []
        return Heartbeat(self.session, values, *episode_columns(untold))

    def close(self) -> None:
        self._vector.close()


class TurnFeed:
    """A `learner.feed.Feed` that has the actors step until there is a batch.

    Without a rate limit every actor steps once for each batch: something has to stand for the
    speeds that would decide it.

    Args:
        between: called after each actor's step.
    """

    overwritten = 0

    def __init__(
        self,
        table: Table,
        actors: Sequence[TurnActor],
        manifest: Manifest,
        device: torch.device,
        stop: threading.Event,
        between: Callable[[], None],
    ) -> None:
        config = manifest.config
        self._table, self._actors, self._stop, self._between = table, actors, stop, between
        self._prioritized = config.prioritized
        self._is_limited = config.samples_per_insert is not None
        self._turns = cycle(actors)
        self._line: deque[Insert] = deque()
        """Inserts that are to be stored one by one: a batch may be due between two of them."""
        self._host = HostBatch(manifest, device)
        self._transfer = Transfer([self._host], device)
        self._replay = MappedReplay(table.storage, config.discount, config.seed)

    def next(self, timeout_s: float) -> TrainBatch | None:
        """Nothing is ready before it is waited for."""
        if timeout_s == 0.0:
            return None
        if not self._is_limited:
            for _ in self._actors:
                self._act()
            while self._line:
                self._hand(ACTORS, self._line.popleft())
        drawn = self._hand(LEARNER, SampleRequest(1, keys_only=True))
        # While the learner has to wait the limiter lets an insert in, so none waits in the table.
        while drawn is None and not self._stop.is_set():
            if self._line:
                drawn = self._hand(ACTORS, self._line.popleft())
            else:
                self._act()
        return None if drawn is None else self._read(drawn)

    def done(self, batch: TrainBatch, priority: npt.NDArray[np.float32]) -> None:
        if self._prioritized:
            self._hand(LEARNER, SampleRequest(0, batch.key, priority))

    def follow(self, servers: Mapping[int, Serving]) -> None:
        """There is one table, and it stays."""

    def close(self) -> None:
        self._replay.close()
        self._transfer.finish()

    def _act(self) -> None:
        self._line += next(self._turns).step()
        self._between()

    def _hand(self, peer: bytes, message: Message) -> Drawn | None:
        """To the table; what it has drawn thereupon."""
        drawn = None
        for _, reply in self._table.handle(peer, message, NO_TIME_S):
            if isinstance(reply, Rejected):
                raise WireError(f"the replay rejected {message.kind}: {reply.reason}")
            if isinstance(reply, Drawn):
                drawn = reply
        return drawn

    def _read(self, drawn: Drawn) -> TrainBatch:
        read = self._replay.read(self._host, drawn)
        assert read is not None, "nobody evicts what was just drawn"
        self._host.weigh(read.probability, drawn.table_size)
        tensors, copied = self._transfer.start(0)
        return TrainBatch(
            **tensors,
            key=read.key,
            table_size=drawn.table_size,
            inserted={0: drawn.inserted},
            sampled=drawn.sampled,
            mean_version=read.mean_version,
            slot=0,
            copied=copied,
        )


class InTurn:
    """`learner.peers.Peers` without sockets; further arguments as of `ControlPlane`.

    Args:
        run_dir: where the replay's file lies, if it has one.
        view: is shown the status now and then.
    """

    endpoint = ENDPOINT
    evaluator = 0

    def __init__(
        self,
        run_dir: Path,
        stop: threading.Event,
        view: LiveView,
        manifest: Manifest,
        counters: LearnerCounters,
        wall_s: Callable[[], float],
        *,
        epoch: int,
        telemetry: Telemetry,
        recorder: Recorder,
        announcement: Announcement,
        targets: object = None,
        health: object = None,
    ) -> None:
        self._run_dir, self._manifest, self._stop, self._view = run_dir, manifest, stop, view
        self._announcement = announcement
        self._new_sessions = count(epoch << 32)
        self._head = Head(manifest, ENDPOINT, epoch, lambda: next(self._new_sessions))
        self._report = Report(self._head, manifest, counters, wall_s, telemetry, recorder)
        self.head_telemetry = self._report.head_telemetry
        self._weights: dict[bytes, Weights] = {}
        self._table: Table | None = None
        self._ends = contextlib.ExitStack()
        self._actors: list[TurnActor] = []
        self._sessions: dict[str, int] = {}
        self._peers: dict[int, bytes] = {}
        """Whose each session is."""
        self._scoring: Scoring | None = None
        self._policy: Policy | None = None
        self._scored = 0
        self._next_record_s = 0.0

    def publish(self, topic: bytes, epoch: int, version: int, tensors: NamedTensors) -> None:
        self._weights[topic] = Weights(epoch, version, tensors)

    def take_evaluations(self) -> list[EvalResult]:
        """Plays the episodes of the version that was published for it, if there is one."""
        self._show_now_and_then()
        weights = self._weights.pop(EVALUATION, None)
        if weights is None or self._policy is None or self._scoring is None:
            return []
        self._policy.load(weights)
        since_s = time.monotonic()
        try:
            returns, lengths = self._scoring.score(self._policy.q_values)
        except Interrupted:
            return []
        self._scored += 1
        session, took_s = self._sessions["evaluator"], time.monotonic() - since_s
        self._tell(EvalResult(session, weights.epoch, weights.version, took_s, returns, lengths))
        return self._head.take_evaluations()

    def note_score(self, facts: dict[str, Any]) -> None:
        self._report.note_score(facts)

    def open_feed(
        self,
        timeout_s: float,
        device: torch.device,
        trace: Trace,
        thread_trace: Trace,
        rejections: Rejections,
    ) -> Feed | None:
        manifest, config = self._manifest, self._manifest.config
        replay = self._join("replay_server", 0)
        storage = replay_storage(config, self._run_dir)
        self._ends.enter_context(only_writer(storage))
        self._table = build_table(manifest, storage, (replay.epoch, replay.incarnation))
        # A session is never used again, and those of the run's parts before are in its replay.
        newest = int(self._table.storage.session.max())
        self._new_sessions = count(max(next(self._new_sessions), newest + 1))
        self._tell(Serving(replay.session, ENDPOINT))
        evaluator = self._join("evaluator", 0)
        # The ε ladder has its length once all have joined.
        welcomes = [self._join("actor", number) for number in range(config.actors)]
        self._policy = Policy(manifest)
        self._scoring = Scoring(
            config,
            manifest.spec,
            (evaluator.epoch, evaluator.incarnation),
            lambda: not self._stop.is_set(),
        )
        for welcome in welcomes:
            self._actors.append(TurnActor(welcome, manifest, lambda: self._weights[ACTING]))
        return TurnFeed(
            self._table, self._actors, manifest, device, self._stop, self._show_now_and_then
        )

    def keep_up(self, feed: Feed) -> None:
        """Nobody comes or goes."""

    def stop_members(self, timeout_s: float) -> None:
        """They do nothing by themselves."""

    def close(self) -> None:
        self._show()
        self._announcement.tell(time.monotonic(), self._report.status, due=True)
        self._announcement.withdraw()
        for actor in self._actors:
            actor.close()
        if self._scoring is not None:
            self._scoring.close()
        if self._table is not None:
            self._table.close()
            self._table.storage.flush()
        self._ends.close()

    def _join(self, role: str, number: int) -> Welcome:
        token = len(self._head.members)
        join = Join(role, host_names.gethostname(), os.getpid(), 0, number, False, token)
        peer = f"{role}-{number}".encode()
        replies = self._head.handle(peer, join, NO_TIME_S)
        (welcome,) = (reply for _, reply in replies if isinstance(reply, Welcome))
        self._sessions[role] = welcome.session
        self._peers[welcome.session] = peer
        return welcome

    def _tell(self, message: Heartbeat | EvalResult | Serving) -> None:
        """To the head, from the member that it is of."""
        self._head.handle(self._peers[message.session], message, NO_TIME_S)

    def _show_now_and_then(self) -> None:
        if time.monotonic() >= self._next_record_s:
            self._show()

    def _show(self) -> None:
        """A record, and how the run goes: what ordinary runs hear by heartbeats."""
        self._next_record_s = time.monotonic() + RECORD_PERIOD_S
        heartbeats = [actor.heartbeat() for actor in self._actors]
        if self._table is not None:
            counts: Histograms = {h.metric.name: h.read() for h in self._table.histograms}
            told = table_values(self._table)
            replay = Heartbeat(self._sessions["replay_server"], told, histograms=counts)
            scored: Values = {"evaluator_evaluations_total": self._scored}
            heartbeats += [replay, Heartbeat(self._sessions["evaluator"], scored)]
        for heartbeat in heartbeats:
            self._tell(heartbeat)
        self._report.write_records()
        self._announcement.tell(time.monotonic(), self._report.status)
        self._view.update(self._report.status().to_plain())
