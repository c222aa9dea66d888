"""The learner's update on batches that come by one way or another, in a process of its own.

    python -m tests.benchmarks.fed_rounds --network nature --batch-size 32

measures a window of each way for each line on stdin: `static`, the same batch again and again,
which costs nothing but the update; `shared_memory` and `wire`, through the real feed from a
real replay server in another process, priorities going home; the first also with 16 batches
requested ahead; and on a GPU `device_mirror`, the prototype of the module of that name.
"""

import argparse
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
import zmq

from actor.blocks import Blocks
from actor.replay_client import ReplayClient
from common.config import Config
from common.environments import probe_spec
from common.errors import ConfigError, EnvironmentFault
from common.manifest import Manifest
from common.messages import Serving
from common.networks import build_network
from common.rejections import Rejections
from common.spec import EnvSpec
from deploy import presets
from learner.device import choose_device
from learner.feed import Feed, Prefetcher, open_feed
from learner.host_memory import keep_freed_memory
from learner.readback import UpdateResult
from learner.update import QLearner, TrainBatch
from tests.benchmarks.contestants import Round, serve_rounds
from tests.benchmarks.device_mirror import MirroredBatches
from tests.benchmarks.own_replay import SHARED_MEMORY, serving
from tests.benchmarks.peers import ABSENT
from tests.benchmarks.served import Workload

INPUTS = {
    "mlp": (EnvSpec((4,), "<f4", 2), 1),
    "minatar": (EnvSpec((10, 10, 4), "|b1", 3), 1),
    "nature": (EnvSpec((84, 84), "|u1", 6), 4),
}
"""What a network sees, by its name, and how many of it in a stack."""
AHEAD = 16
FEEDS: dict[str, dict[str, Any]] = {
    "shared_memory": {"replay_link": "shared_memory"},
    "wire": {"replay_link": "wire"},
    f"shared_memory_{AHEAD}_ahead": {"replay_link": "shared_memory", "prefetch_batches": AHEAD},
}
"""Changes of the configuration by way. So many batches ahead are Horgan et al. 2018's."""
INSERTS, BLOCKS = 8, 16
"""What the replay holds: enough to draw from."""
Context = zmq.Context[zmq.Socket[bytes]]


def manifest_of_network(network: str, batch_size: int) -> Manifest:
    """The defaults' learner with that network."""
    spec, frame_stack = INPUTS[network]
    config = Config(network=network, batch_size=batch_size, frame_stack=frame_stack)
    return Manifest("benchmark", config, spec)


def manifest_of_preset(preset: str) -> Manifest:
    """Raises ConfigError or EnvironmentFault where the preset or its environment is not there."""
    config = presets.load(preset)
    return Manifest("benchmark", config, probe_spec(config))


def small(manifest: Manifest, threads: int) -> Manifest:
    """With a small replay that neither side has to wait for."""
    changes: dict[str, Any] = {
        "replay_capacity": INSERTS * BLOCKS * manifest.config.block_length,
        "min_size_to_sample": manifest.config.batch_size,
        "samples_per_insert": None,
        "learner_threads": threads or manifest.config.learner_threads,
    }
    return Manifest("benchmark", manifest.config.model_copy(update=changes), manifest.spec)


def fill(server: Serving, manifest: Manifest, context: Context) -> None:
    """Random experience for the whole table."""
    config, spec = manifest.config, manifest.spec
    workload = Workload(
        blocks=BLOCKS,
        length=config.block_length,
        n_step=config.n_step,
        obs_shape=spec.obs_shape,
        obs_dtype=spec.obs_dtype,
        frame_stack=config.frame_stack,
        actions=spec.num_actions,
    )
    client = ReplayClient(
        context,
        server.endpoint,
        secrets.randbits(62),
        window=1,
        rejections=Rejections("actor_rejected_messages_total"),
    )
    with closing(client):
        for seed in range(INSERTS):
            client.insert(Blocks(**workload.experience(seed)._asdict()), weights_version=0)
            while client.unacknowledged:
                client.poll(timeout_ms=100)


class Training:
    """What the learner's loop does with each batch."""

    def __init__(self, manifest: Manifest) -> None:
        config = manifest.config
        torch.set_num_threads(config.learner_threads)
        torch.manual_seed(0)
        self.device = choose_device(config)
        if self.device.type == "cpu":
            keep_freed_memory()
        self._learner = QLearner(build_network(config, manifest.spec), config, self.device)
        self._pending: tuple[TrainBatch, UpdateResult] | None = None

    def update(self, batch: TrainBatch, feed: Feed | None) -> None:
        """An update; on a GPU its result is read when the next one is under way."""
        result = self._learner.update(batch)
        self.settle(feed)
        self._pending = (batch, result)
        if self.device.type != "cuda":
            self.settle(feed)

    def settle(self, feed: Feed | None) -> None:
        if self._pending is not None:
            (batch, result), self._pending = self._pending, None
            priority, _, _ = result.read()
            if feed is not None:
                feed.done(batch, priority)


def updates_per_s(
    training: Training,
    next_batch: Callable[[], TrainBatch],
    feed: Feed | None,
    window_s: float,
    ready: int,
) -> float:
    """`ready`: batches that were there before, and do not count."""
    for _ in range(ready + 1):
        training.update(next_batch(), feed)
    updates, start_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - start_s) < window_s:
        training.update(next_batch(), feed)
        updates += 1
    training.settle(feed)
    return updates / elapsed_s


@contextmanager
def ways(manifest: Manifest, window_s: float, mirror: bool) -> Iterator[Callable[[], Round]]:
    """Measures one window of each way; with `mirror`, of `device_mirror` on any device."""
    training = Training(manifest)
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        server = stack.enter_context(serving(manifest, SHARED_MEMORY))
        fill(server, manifest, context)
        feeds: dict[str, Feed] = {}
        for way, changes in FEEDS.items():
            config = manifest.config.model_copy(update=changes)
            linked = Manifest("benchmark", config, manifest.spec)
            feeds[way] = open_feed(context, {0: server}, linked, training.device)
            stack.callback(feeds[way].close)
        if mirror or training.device.type == "cuda":
            batches = MirroredBatches(context, server, manifest, training.device)
            feeds["device_mirror"] = Prefetcher(batches, context, device=training.device)
            stack.callback(feeds["device_mirror"].close)
        first = _next(feeds["shared_memory"])
        static = _copied(first)
        # Its buffer goes round again: each way has all of its batches under way.
        training.update(first, feeds["shared_memory"])
        training.settle(feeds["shared_memory"])

        def measure() -> Round:
            rates = {"static": [updates_per_s(training, lambda: static, None, window_s, 4)]}
            for way, feed in feeds.items():
                ready = FEEDS.get(way, {}).get("prefetch_batches", manifest.config.prefetch_batches)
                next_batch = partial(_next, feed)
                rates[way] = [updates_per_s(training, next_batch, feed, window_s, ready)]
            return rates

        yield measure


def _next(feed: Feed) -> TrainBatch:
    while True:
        batch = feed.next(timeout_s=1.0)
        if batch is not None:
            return batch


def _copied(batch: TrainBatch) -> TrainBatch:
    """The same numbers in memory of their own."""
    if batch.copied is not None:
        batch.copied.synchronize()
    values = ((field.name, getattr(batch, field.name)) for field in fields(batch))
    tensors = {name: value.clone() for name, value in values if isinstance(value, torch.Tensor)}
    return replace(batch, copied=None, **tensors)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", help="its learner; otherwise:")
    parser.add_argument("--network", choices=INPUTS, default="mlp")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=0, help="0: as configured")
    parser.add_argument("--window-s", type=float, default=2.0)
    parser.add_argument("--mirror", action="store_true", help="device_mirror without a GPU, too")
    options = parser.parse_args()
    try:
        manifest = (
            manifest_of_preset(options.preset)
            if options.preset
            else manifest_of_network(options.network, options.batch_size)
        )
    except (ConfigError, EnvironmentFault) as error:
        print(f"skipped: {error}", file=sys.stderr)
        sys.exit(ABSENT)
    with ways(small(manifest, options.threads), options.window_s, options.mirror) as measure:
        serve_rounds(measure)


if __name__ == "__main__":
    main()
