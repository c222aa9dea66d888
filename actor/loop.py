"""The actor: joins a run, plays its environments, streams experience, takes new weights.

One thread, one loop. Each turn: newest weights if there are any, one step of all environments,
finished blocks into the window, a word with the head. Where Q-values come from is the business of
`actor/acting_policy.py`.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zmq

from actor.acting_policy import WAIT_MS, ActingPolicy, Interrupted, LocalPolicy
from actor.exploration import epsilon_ladder
from actor.remote_policy import RemotePolicy
from actor.replay_client import ReplayClient
from actor.rollout import Rollout
from common import transport
from common.environments import make_vector, spec_of
from common.errors import EnvironmentFault
from common.exporter import NO_METRICS, MetricsOptions
from common.manifest import Manifest
from common.membership import JOIN_TIMEOUT_S, Membership
from common.metric_table import histogram
from common.metrics import Telemetry, Values
from common.trace import NO_TRACE, Trace, trace_to

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """What an actor process is told on its command line; all else comes from the head."""

    connect: str
    """The head's address."""
    num_envs: int = 0
    """Environments in this actor; 0: as many as the run's configuration says."""
    number: int = -1
    """Rejoin under this number if it is free; −1: any."""
    metrics: MetricsOptions = NO_METRICS
    """Where Prometheus can scrape this process."""
    profile: Path | None = None
    """Directory to record the loop's phases in."""
    join_timeout_s: float = JOIN_TIMEOUT_S
    """How long it waits to be taken in."""
    videos: Path | None = None
    """Directory for videos of evaluations; None: an evaluator films nothing."""


def run_actor(
    options: ActorOptions,
    context: zmq.Context[zmq.Socket[bytes]],
    stop: threading.Event,
    ready: Callable[[str], None],
) -> None:
    """Act until the head says stop or `stop` is set. `ready` is called once acting begins."""
    with Membership(
        context,
        options.connect,
        "actor",
        num_envs=options.num_envs,
        preferred_number=options.number,
        metrics=options.metrics,
    ) as membership:
        manifest = membership.join(time.monotonic, stop, options.join_timeout_s)
        if manifest is not None:
            num_envs = options.num_envs or manifest.config.envs_per_actor
            trace = trace_to(options.profile, f"actor-{membership.welcome.number}")
            Actor(context, membership, manifest, num_envs, stop, trace).run(ready)


class Actor:
    """One actor's environments, policy and connections, and the loop that uses them."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        membership: Membership,
        manifest: Manifest,
        num_envs: int,
        stop: threading.Event,
        trace: Trace = NO_TRACE,
    ) -> None:
        self._trace = trace
        welcome, config = membership.welcome, manifest.config
        self._membership = membership
        self._config = config
        self._stop = stop
        self._joins = membership.joins
        self._vector = make_vector(config, num_envs)
        if spec_of(self._vector) != manifest.spec:
            raise EnvironmentFault(
                f"{config.env} is {spec_of(self._vector)} here and {manifest.spec} at the head: "
                "install the same versions on both"
            )
        seeds = np.random.SeedSequence(
            [config.seed, 1, welcome.number, welcome.epoch, welcome.incarnation]
        )
        self._rng = np.random.default_rng(seeds)
        self._rollout = Rollout(
            self._vector,
            manifest,
            lambda obs: self._policy.q_values(obs),
            self._rng,
            # Sub-environments are seeded with consecutive numbers from here.
            seed=int(seeds.generate_state(1)[0] >> 1),
            trace=trace,
        )
        self._policy: ActingPolicy = (
            LocalPolicy(context, membership, self._goes_on)
            if config.inference == "actor"
            else RemotePolicy(context, membership, self._goes_on)
        )
        self._replay = ReplayClient(
            context,
            transport.reachable(welcome.replay_endpoints[0], membership.address),
            welcome.session,
            config.insert_window,
            config.compression,
        )
        self._blocked_s = 0.0
        self._episodes = 0
        self._step_s = histogram("actor_step_seconds")
        self._telemetry = Telemetry(self._values, [self._step_s, self._replay.ack_s])
        self._epsilon = self._epsilons()
        self._ladder_size = membership.ladder_size

    def run(self, ready: Callable[[str], None]) -> None:
        try:
            self._act()
            ready("")
            while self._goes_on():
                self._trace.phase("new weights")
                self._policy.renew()
                self._act()
                self._trace.phase("heartbeat")
        except Interrupted:
            pass
        finally:
            self._trace.close()
            self._policy.close()
            self._replay.close()
            self._vector.close()

    def _act(self) -> None:
        """One step of all environments."""
        rollout = self._rollout
        since_s = time.perf_counter()
        complete = rollout.step(self._epsilon)
        self._step_s.observe(time.perf_counter() - since_s)
        acted = self._policy.version
        for blocks in complete:
            if self._wait_for_credit():
                self._trace.phase("inserting")
                self._replay.insert(blocks, acted)
        if rollout.finished:
            self._episodes += len(rollout.finished)
            self._membership.record_episodes(rollout.finished)
            rollout.finished.clear()

    def _goes_on(self) -> bool:
        """A word with the head; false when this actor is to end."""
        membership = self._membership
        membership.poll(time.monotonic(), self._telemetry)
        if membership.joins != self._joins:
            self._joins = membership.joins
            self._epsilon = self._epsilons()
        if membership.ladder_size != self._ladder_size:
            self._ladder_size = membership.ladder_size
            self._epsilon = self._epsilons()
        return not (self._stop.is_set() or membership.stop_requested)

    def _wait_for_credit(self) -> bool:
        """Whether an insert may be sent; false when this actor is to end instead."""
        self._trace.phase("waiting for credit")
        self._replay.poll()
        if not self._replay.window_is_full:
            return True
        since_s = time.monotonic()
        while self._replay.window_is_full and self._goes_on():
            self._replay.poll(WAIT_MS)
            self._policy.renew()
        self._blocked_s += time.monotonic() - since_s
        return not self._replay.window_is_full

    def _epsilons(self) -> npt.NDArray[np.float64]:
        config, welcome = self._config, self._membership.welcome
        return epsilon_ladder(
            welcome.first_env_index,
            self._vector.num_envs,
            self._membership.ladder_size,
            config.epsilon_base,
            config.epsilon_alpha,
        )

    def _values(self) -> Values:
        return {
            "actor_env_steps_total": self._rollout.env_steps,
            "actor_episodes_total": self._episodes,
            "actor_blocked_seconds_total": self._blocked_s,
            "actor_unacknowledged_inserts": self._replay.unacknowledged,
            "actor_resent_inserts_total": self._replay.resent,
            "actor_weights_version": self._policy.version,
        }
