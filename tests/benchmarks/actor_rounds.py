"""One way of stepping a preset's environments with its network, in a process of its own.

    python -m tests.benchmarks.actor_rounds zapex --preset cartpole --vectorization sync

measures a window for each line on stdin. `zapex` is the actor's real loop: weights, ε-greedy
steps, blocks with first priorities, inserts to a replay server that stores and acknowledges them.
`bare` is what nobody can do without: the environments' step, one forward of the network, argmax.
"""

import argparse
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, cast

import numpy as np
import torch
import zmq
from gymnasium.vector import AutoresetMode

from actor.loop import Actor
from common import transport
from common.config import Config
from common.environments import autoreset_mode, make_vector, spec_of
from common.errors import ConfigError, EnvironmentFault
from common.manifest import Manifest
from common.membership import Episode, Membership
from common.messages import ACTING, Weights, Welcome
from common.metrics import Telemetry
from common.networks import build_network, network_input_shape
from common.rejections import Rejections
from deploy import presets
from learner.weights import Snapshot
from tests.benchmarks.contestants import Round, serve_rounds
from tests.benchmarks.own_replay import serving
from tests.benchmarks.peers import ABSENT

SETTLE_S = 0.3
Context = zmq.Context[zmq.Socket[bytes]]


def config_of(preset: str, vectorization: str, num_envs: int) -> Config:
    """The preset, with a replay that takes experience as fast as it comes."""
    config = presets.load(preset)
    changes: dict[str, Any] = {"envs_per_actor": num_envs, "samples_per_insert": None}
    if vectorization:
        changes["vectorization"] = vectorization
    return config.model_copy(update=changes)


def bare(manifest: Manifest, window_s: float, stack: ExitStack) -> Callable[[], Round]:
    config = manifest.config
    vector = make_vector(config, config.envs_per_actor)
    stack.callback(vector.close)
    network = build_network(config, manifest.spec).eval()
    shape = (config.envs_per_actor, *network_input_shape(config, manifest.spec))
    frames = np.zeros(shape, manifest.spec.dtype)

    def measure() -> Round:
        obs, _ = vector.reset(seed=0)
        steps, start_s, begin_s = 0, 0.0, time.perf_counter() + SETTLE_S
        while (now_s := time.perf_counter()) < begin_s + window_s:
            if not start_s and now_s >= begin_s:
                steps, start_s = 0, now_s
            if config.frame_stack > 1:
                # The newest frame takes the oldest one's place: an order would cost more copying.
                frames[:, steps % config.frame_stack] = obs
                obs = frames
            with torch.inference_mode():
                action = network(torch.from_numpy(obs)).numpy().argmax(axis=1)
            obs, _, _, _, _ = vector.step(action)
            steps += 1
        return {"env_steps_per_s": [steps * config.envs_per_actor / (now_s - start_s)]}

    return measure


class _Window:
    """Stands in for a membership: a run that ends when its window is over.

    The actor asks at every step, so it is here that time and steps are read.
    """

    joins = contacts = 1
    address = "tcp://127.0.0.1:1"
    relay_endpoint = inference_endpoint = ""

    def __init__(
        self,
        manifest: Manifest,
        replay: str,
        context: Context,
        window_s: float,
        steps_to_reset: int,
    ) -> None:
        self.manifest = manifest
        self.replay_endpoint = replay
        self.rejections = Rejections("actor_rejected_messages_total")
        self._window_s = window_s
        self._steps_to_reset = steps_to_reset
        self.ladder_size = manifest.config.envs_per_actor
        self._weights, self.weights_endpoint = transport.bind(
            context, zmq.XPUB, "tcp://127.0.0.1:0"
        )
        self._version = Weights(
            0, 0, Snapshot(build_network(manifest.config, manifest.spec)).tensors()
        )
        self.welcome = Welcome(
            session=secrets.randbits(62),
            number=0,
            epoch=0,
            incarnation=0,
            first_env_index=0,
            ladder_size=self.ladder_size,
            manifest={},
            weights_endpoint=self.weights_endpoint,
            replay_endpoint=replay,
        )
        self.stop_requested = False
        self._next_s = 0.0
        self._acting = False
        self._resets = 0
        self._start: tuple[float, float] | None = None
        self.env_steps_per_s = 0.0
        """As the environments count them: with the ignored ones of NEXT_STEP."""

    def ready(self, _: str) -> None:
        self._acting = True
        self._next_s = time.monotonic() + SETTLE_S

    def poll(self, now_s: float, telemetry: Telemetry) -> None:
        if now_s < self._next_s:
            return
        if not self._acting:
            if transport.receive_frames(self._weights) is not None:  # Somebody subscribes.
                transport.send(self._weights, self._version, prefix=(ACTING,))
            return
        steps = telemetry.values()["actor_env_steps_total"] + self._resets
        if self._start is None:
            self._start, self._next_s = (now_s, steps), now_s + self._window_s
            return
        start_s, first = self._start
        self.env_steps_per_s = (steps - first) / (now_s - start_s)
        self.stop_requested = True

    def record_episodes(self, episodes: Sequence[Episode]) -> None:
        self._resets += self._steps_to_reset * len(episodes)

    def close(self) -> None:
        self._weights.close()


def zapex(manifest: Manifest, window_s: float, stack: ExitStack) -> Callable[[], Round]:
    context = stack.enter_context(zmq.Context())
    server = stack.enter_context(serving(manifest))
    num_envs = manifest.config.envs_per_actor
    vector = make_vector(manifest.config, num_envs)
    # With NEXT_STEP, each episode is started over by a step of its own.
    steps_to_reset = int(autoreset_mode(vector) is AutoresetMode.NEXT_STEP)
    vector.close()

    def measure() -> Round:
        window = _Window(manifest, server.endpoint, context, window_s, steps_to_reset)
        stop = threading.Event()
        Actor(context, cast(Membership, window), manifest, num_envs, stop).run(window.ready)
        window.close()
        return {"env_steps_per_s": [window.env_steps_per_s]}

    return measure


WAYS = {"bare": bare, "zapex": zapex}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--vectorization", default="", help="if not the preset's own")
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--window-s", type=float, default=2.0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # As in an actor's process.
    torch.manual_seed(0)
    try:
        config = config_of(options.preset, options.vectorization, options.envs)
        vector = make_vector(config, options.envs)
    except (ConfigError, EnvironmentFault) as error:
        print(f"skipped: {error}", file=sys.stderr)
        sys.exit(ABSENT)
    manifest = Manifest("benchmark", config, spec_of(vector))
    vector.close()
    with ExitStack() as stack:
        serve_rounds(WAYS[options.way](manifest, options.window_s, stack))


if __name__ == "__main__":
    main()
