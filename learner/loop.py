"""The learner: owns the run. Trains, publishes, evaluates, checkpoints, and decides when it ends.

The loop itself never waits for a peer. Batches come from a feed; everything that goes to other
processes leaves through the control plane's thread.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import zmq

from common import run_directory
from common.config import Config
from common.deadlines import Deadlines
from common.descriptors import allow_descriptors
from common.device import use_device
from common.environments import probe_spec
from common.exporter import NO_METRICS, Exporter, MetricsOptions
from common.manifest import Manifest
from common.messages import ACTING
from common.metric_table import histogram
from common.metrics import Telemetry
from common.networks import build_network
from common.rejections import Rejections
from common.security import NOTHING_TOLD, Security, security_of
from common.trace import trace_to
from learner.announcement import Announcement
from learner.checkpoint import RunState, restore_learner, save_checkpoint
from learner.control import ControlPlane
from learner.device import choose_device
from learner.divergence import check_result, check_weights
from learner.evaluations import Evaluations
from learner.feed import Feed
from learner.host_memory import keep_freed_memory
from learner.peers import Connect
from learner.readback import UpdateResult
from learner.recorder import Recorder
from learner.result import write_result
from learner.resume import counters_of, inserted_since, resume
from learner.saving import save_or_put_off
from learner.scores import Scores
from learner.sinks import open_sinks
from learner.status import learner_values
from learner.targets import Targets
from learner.update import QLearner, TrainBatch
from learner.weights import Snapshot

WAIT_S = 0.05
"""How long one wait for a batch lasts before the loop looks around."""
OTHER_MEMBERS = 3
"""Replay server, evaluator, inference process."""
STOP_MEMBERS_S = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LearnerOptions:
    """Where the run lives and how it starts; the rest is the configuration."""

    run_dir: Path
    bind: str = "tcp://127.0.0.1:5550"
    resume: bool = False
    started_s: float | None = None
    """When the run's first process started, as time.monotonic(); None: now."""
    metrics: MetricsOptions = NO_METRICS
    """Where Prometheus can scrape this process."""
    profile: Path | None = None
    """Directory to record the loop's phases in."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    solved: bool
    """As in the run's result."""
    reason: str
    """target, budget or stopped."""


def run_learner(
    options: LearnerOptions,
    config: Config,
    context: zmq.Context[zmq.Socket[bytes]],
    stop: threading.Event,
    ready: Callable[[str], None],
) -> Outcome:
    """Train until the target or the budget is reached, or `stop` is set.

    Args:
        ready: called with the head's address once processes can join.

    Raises:
        NonFiniteLoss: with the statistics of the batch; the last checkpoint is intact.
        RunDirectoryError: another learner is in that run.
        ConfigError: this process may not have as many connections as the run has members.
    """
    # Each member has one for its words and one for the weights.
    others = 2 * (config.actors + OTHER_MEMBERS)
    allow_descriptors(others, f"the head of a run with {config.actors} actors")
    connect = functools.partial(ControlPlane, context, options.bind)
    return train(options, config, connect, stop, ready, security_of(context))


def train(
    options: LearnerOptions,
    config: Config,
    connect: Connect,
    stop: threading.Event,
    ready: Callable[[str], None],
    security: Security = NOTHING_TOLD,
) -> Outcome:
    """As `run_learner`, with the peers that `connect` makes."""
    with run_directory.held(options.run_dir, run_directory.LEARNER):
        return _Learner(options, config, connect, stop, security).run(ready)


class _Learner:
    def __init__(
        self,
        options: LearnerOptions,
        config: Config,
        connect: Connect,
        stop: threading.Event,
        security: Security,
    ) -> None:
        self._options, self._config, self._connect, self._stop = options, config, connect, stop
        self._security = security
        self._directory = options.run_dir / "checkpoints"
        self._resume_from: Path | None = None
        resumed = resume(options.run_dir, self._directory, config) if options.resume else None
        if resumed is not None:
            self._resume_from, self._state, self._spec = resumed
        else:
            with Deadlines(config):
                self._spec = probe_spec(config)
            self._state = RunState(run_id=options.run_dir.name)
        self._counters = counters_of(self._state)
        self._began_s = (options.started_s or time.monotonic()) - self._state.wall_s
        self._first_wall_s = self._state.wall_s
        self._first_updates = self._state.updates
        self._first_env_steps = self._state.env_steps
        self._manifest = Manifest(self._state.run_id, config, self._spec)
        self._manifest.check_sizes()  # Before anybody joins in vain.
        self._evaluations = Evaluations(
            config, self._spec, self._state, self._counters, self._directory
        )
        self._pending: tuple[int, TrainBatch, UpdateResult] | None = None
        self._unsent: tuple[int, Snapshot] | None = None
        self._trace = trace_to(options.profile, "learner", leads=True)
        self._rejections = Rejections("learner_rejected_messages_total")
        self._update_s = histogram("learner_update_seconds")
        self._batch_wait_s = histogram("learner_batch_wait_seconds")
        self._unfed_s = 0.0
        """Waited for the batch that comes next, so far."""

    # ------------------------------------------------------------------------------------ the run

    def run(self, ready: Callable[[str], None]) -> Outcome:
        options, config = self._options, self._config
        torch.set_num_threads(config.learner_threads)
        exporter = Exporter(options.metrics, self._security)
        self._health = exporter.health
        telemetry = Telemetry(
            lambda: learner_values(self._counters) | self._rejections.values(),
            [self._update_s, self._batch_wait_s],
        )
        recorder = Recorder(open_sinks(options.run_dir, config, self._first_env_steps))
        self._peers = self._connect(
            self._manifest,
            self._counters,
            self._wall_s,
            epoch=self._state.epoch,
            telemetry=telemetry,
            targets=Targets(options.run_dir, self._state.run_id, exporter.endpoint),
            recorder=recorder,
            announcement=Announcement(options.run_dir),
            health=exporter.health,
        )
        self._scores = Scores(self._peers, self._evaluations, self._state.epoch, self._wall_s)
        exporter.show(self._state.run_id, "learner", 0, telemetry, self._peers.head_telemetry)
        try:
            ready(self._peers.endpoint)
            self._health.in_the_run = True
            # Everybody else starts up while this process still builds its network.
            self._build()
            # Only now is it sure that a resumed run can have these values.
            run_directory.store_config(options.run_dir, config)
            reason = self._train()
            self._finish(reason)
            return Outcome(self._state.solved, reason)
        except BaseException:
            self._counters.phase = "failed"
            raise
        finally:
            self._peers.stop_members(STOP_MEMBERS_S)
            self._peers.close()
            recorder.close()
            exporter.close()

    def _build(self) -> None:
        torch.manual_seed(self._config.seed)
        device = choose_device(self._config)
        use_device(device)
        if device.type == "cpu":
            keep_freed_memory()
        network = build_network(self._config, self._spec)
        if self._resume_from is None:
            # Before the optimiser is there, which takes a while: actors need nothing more.
            first = Snapshot(network, self._config.publish_dtype)
            self._hand_out(0, first)
        self._learner = QLearner(network, self._config, device)
        if self._resume_from is not None:
            restore_learner(self._resume_from, self._learner)
            log.info("resumed from %s", self._resume_from)
            self._publish()
            self._send_weights()
        # A learner that is killed early goes on with this network and this run's counters, and its
        # next start is another epoch.
        self._checkpoint(required=self._resume_from is None)

    def _train(self) -> str:
        """Why it ended."""
        self._counters.phase = "waiting"
        thread_trace = trace_to(self._options.profile, "learner-prefetch")
        feed = None
        while feed is None:
            if self._stop.is_set():
                return "stopped"
            feed = self._peers.open_feed(
                WAIT_S, self._learner.device, self._trace, thread_trace, self._rejections
            )
        try:
            while not self._stop.is_set():
                self._health.turned("training")
                self._peers.keep_up(feed)
                batch = self._next_batch(feed)
                if batch is not None:
                    self._update(batch, feed)
                self._scores.take()
                if self._evaluations.solved:
                    self._state.solved = True
                    return "target"
                if self._state.env_steps >= self._config.total_env_steps:
                    self._settle(feed)
                    self._counters.phase = "finishing"
                    self._scores.wait_for_last(self._learner, self._stop, self._health)
                    self._state.solved |= self._evaluations.reached
                    return "budget"
            return "stopped"
        finally:
            try:
                self._settle(feed)
            finally:
                self._trace.close()
                feed.close()

    def _next_batch(self, feed: Feed) -> TrainBatch | None:
        self._trace.phase("waiting for a batch")
        since_s = time.monotonic()
        batch = feed.next(0.0)
        if batch is None:
            # Nothing to overlap with: the last batch's priorities need not wait for the next batch.
            self._settle(feed)
            batch = feed.next(WAIT_S)
            waited_s = time.monotonic() - since_s
            self._counters.waited_s += waited_s
            self._unfed_s += waited_s
        if batch is not None:
            self._batch_wait_s.observe(self._unfed_s)
            self._unfed_s = 0.0
        return batch

    def _update(self, batch: TrainBatch, feed: Feed) -> None:
        if self._counters.phase != "training":
            self._counters.phase = "training"
            log.info("training began %.2f s after the run did", self._wall_s())
        self._counters.overwritten = feed.overwritten
        since_s = time.perf_counter()
        self._trace.phase("forward, backward, optimiser")
        result = self._learner.update(batch)
        # On a GPU this update is still under way; the one before it is read meanwhile.
        self._settle(feed)
        self._pending = (self._learner.updates, batch, result)
        if self._learner.device.type != "cuda":
            self._settle(feed)
        self._update_s.observe(time.perf_counter() - since_s)
        self._count(batch)
        self._trace.iteration()
        updates, config = self._learner.updates, self._config
        if updates % config.publish_period == 0:
            self._trace.phase("publishing")
            self._publish()
            if self._learner.device.type != "cuda":
                self._send_weights()
        if updates % config.eval_period == 0:
            self._scores.ask(self._learner)
        if updates % config.checkpoint_period == 0:
            self._settle(feed)
            self._trace.phase("checkpoint")
            self._checkpoint()

    def _settle(self, feed: Feed) -> None:
        """Read the result of the update before, and send its priorities home."""
        self._trace.phase("priorities")
        self._send_weights()
        if self._pending is None:
            return
        (update, batch, result), self._pending = self._pending, None
        priority, loss, mean_q = result.read()
        check_result(loss, priority, update, batch, self._options.run_dir)
        self._counters.loss, self._counters.mean_q = loss, mean_q
        feed.done(batch, priority)

    def _count(self, batch: TrainBatch) -> None:
        state, counters = self._state, self._counters
        state.env_steps += inserted_since(state.replay_inserted, batch.inserted)
        state.replay_inserted |= batch.inserted
        state.replay_sampled = batch.sampled
        if self._resume_from is not None and state.updates == self._first_updates:
            # What the replay took in since the checkpoint was not of this part of the run.
            self._first_env_steps = state.env_steps
        state.updates = self._learner.updates
        counters.updates, counters.env_steps = state.updates, state.env_steps
        counters.table_size = batch.table_size
        counters.inserted, counters.sampled = sum(batch.inserted.values()), batch.sampled
        counters.experience_age = max(state.updates - batch.mean_version, 0.0)

    # -------------------------------------------------------------------------------------- weights

    def _publish(self) -> None:
        """Have the weights brought to the host; a GPU goes on training meanwhile."""
        snapshot = self._learner.snapshot(self._config.publish_dtype)
        self._unsent = (self._learner.updates, snapshot)

    def _send_weights(self) -> None:
        if self._unsent is not None:
            (version, snapshot), self._unsent = self._unsent, None
            self._hand_out(version, snapshot)

    def _hand_out(self, version: int, snapshot: Snapshot) -> None:
        self._peers.publish(ACTING, self._state.epoch, version, snapshot.tensors())

    # ------------------------------------------------------------------------------------- the end

    def _wall_s(self) -> float:
        return time.monotonic() - self._began_s

    def _checkpoint(self, *, required: bool = False) -> None:
        check_weights(self._learner.online, self._learner.updates, self._options.run_dir)
        self._state.wall_s = self._wall_s()
        self._state.updates = self._learner.updates
        save_or_put_off(
            self._write_checkpoint, self._options.run_dir, self._counters, required=required
        )

    def _write_checkpoint(self) -> None:
        keep = self._config.keep_checkpoints
        path = save_checkpoint(self._directory, self._learner, self._state, self._spec, keep)
        self._counters.checkpoint = path.name
        log.info("checkpoint %s", path)
        self._evaluations.save_best()

    def _finish(self, reason: str) -> None:
        self._counters.phase = "finishing"
        wall_s, sampled = self._wall_s(), self._counters.sampled
        self._checkpoint(required=True)
        write_result(
            self._options.run_dir,
            config=self._config,
            state=self._state,
            reason=reason,
            wall_s=wall_s,
            part_s=wall_s - self._first_wall_s,
            part_updates=self._state.updates - self._first_updates,
            part_env_steps=self._state.env_steps - self._first_env_steps,
            samples_per_insert=sampled / max(self._counters.inserted, 1) if sampled else None,
        )
        self._counters.phase = "done"
