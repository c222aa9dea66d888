"""The actor: joins a run, plays its environments, streams experience, takes new weights.

One thread, one loop. Each turn: newest weights if there are any, one step of all environments,
finished blocks into the window, a word with the head. Where Q-values come from is the business of
`actor/acting_policy.py`.
"""

import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import zmq

from actor.acting_policy import WAIT_MS, ActingPolicy, Interrupted, LocalPolicy
from actor.exploration import epsilon_ladder
from actor.memory_limit import MemoryLimit
from actor.options import MemberOptions
from actor.remote_policy import RemotePolicy
from actor.replay_client import ReplayClient
from actor.rollout import Rollout
from common.config import Config
from common.deadlines import Deadlines
from common.descriptors import allow_descriptors
from common.environments import make_vector, spec_of
from common.errors import EnvironmentFault
from common.manifest import Manifest
from common.membership import Membership
from common.messages import Welcome
from common.metric_table import histogram
from common.metrics import Telemetry, Values
from common.trace import NO_TRACE, Trace, trace_to

HAND_IN_S = 5.0
"""How long an actor that has grown too large waits for its last acknowledgements. The replay server
may withhold them for longer; what it has, it keeps."""


def run_actor(
    options: MemberOptions,
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
            if manifest.config.vectorization == "async":
                # A pipe, its lock and the process itself, for each.
                allow_descriptors(4 * num_envs, f"an actor with {num_envs} environments")
            trace = trace_to(options.profile, f"actor-{membership.welcome.number}")
            with Deadlines(manifest.config, membership.leave_for_hanging_loop, membership.say_busy):
                Actor(context, membership, manifest, num_envs, stop, trace).run(ready)


def random_numbers(config: Config, welcome: Welcome) -> tuple[np.random.Generator, int]:
    """An actor's own: for exploration, and the seed of its first environment; the others take
    consecutive ones."""
    seeds = np.random.SeedSequence(
        [config.seed, 1, welcome.number, welcome.epoch, welcome.incarnation]
    )
    return np.random.default_rng(seeds), int(seeds.generate_state(1)[0] >> 1)


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
        self._vector = make_vector(config, num_envs, first_env_index=welcome.first_env_index)
        if spec_of(self._vector) != manifest.spec:
            raise EnvironmentFault(
                f"{config.env} is {spec_of(self._vector)} here and {manifest.spec} at the head: "
                "install the same versions on both"
            )
        self._rng, env_seed = random_numbers(config, welcome)
        self._rollout = Rollout(
            self._vector,
            manifest,
            lambda obs: self._policy.q_values(obs),
            self._rng,
            seed=env_seed,
            trace=trace,
        )
        self._policy: ActingPolicy = (
            LocalPolicy(context, membership, self._goes_on)
            if config.inference == "actor"
            else RemotePolicy(context, membership, self._goes_on)
        )
        self._replay = ReplayClient(
            context,
            membership.replay_endpoint,
            welcome.session,
            config.insert_window,
            membership.rejections,
            config.compression,
        )
        self._blocked_s = 0.0
        self._episodes = 0
        self._step_s = histogram("actor_step_seconds")
        self._telemetry = Telemetry(self._values, [self._step_s, self._replay.ack_s])
        self._epsilon = self._epsilons()
        self._ladder_size = membership.ladder_size
        self._memory = MemoryLimit(config.actor_memory_limit, config.env)

    def run(self, ready: Callable[[str], None]) -> None:
        try:
            self._act()
            self._memory.check_start()
            ready("")
            while self._goes_on():
                if self._memory.is_reached(time.monotonic()):
                    self._hand_in()
                    raise self._memory.fault()
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
            self._vector.watch.first_env_index = membership.welcome.first_env_index
            self._epsilon = self._epsilons()
        if membership.ladder_size != self._ladder_size:
            self._ladder_size = membership.ladder_size
            self._epsilon = self._epsilons()
        self._replay.follow(membership.replay_endpoint)
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

    def _hand_in(self) -> None:
        """Give the replay server a while to acknowledge what it was sent."""
        deadline_s = time.monotonic() + HAND_IN_S
        while self._replay.unacknowledged and time.monotonic() < deadline_s and self._goes_on():
            self._replay.poll(WAIT_MS)

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
            "actor_abandoned_inserts_total": self._replay.abandoned,
            "actor_weights_version": self._policy.version,
            **self._membership.rejections.values(),
        }
