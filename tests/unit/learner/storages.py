"""A small replay in a file, and batches that a learner on the same host reads from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.config import Config
from common.manifest import Manifest
from common.messages import Drawn, Insert, Serving
from common.process import machine_id
from common.spec import EnvSpec
from learner.host_batch import HostBatch
from learner.mapped_replay import MappedReplay, map_storage
from replay_server.storage import Storage
from tests.experience import Kinds, insert, steps, transitions

SPEC = EnvSpec((2, 3), "|u1", 5)
N = 8
LENGTH = 4
SLOTS = 3


def manifest(**changes: Any) -> Manifest:
    """A replay of 3 blocks of 4 transitions, batches of 8; γ = ½ keeps returns exact."""
    values = {
        "block_length": LENGTH,
        "replay_capacity": SLOTS * LENGTH,
        "envs_per_actor": 1,
        "min_size_to_sample": 1,
        "samples_per_insert": None,
        "batch_size": N,
        "discount": 0.5,
        "n_step": 2,
        "frame_stack": 3,
        **changes,
    }
    return Manifest("run", Config(**values), SPEC)


def serving(path: Path) -> Serving:
    return Serving(1, "inproc://replay", machine_id(), str(path))


def mapped(path: Path, run: Manifest) -> MappedReplay:
    found = map_storage(serving(path), run)
    assert found is not None
    return found


def write(storage: Storage, run: Manifest, sequence: int, kinds: Kinds | None = None) -> Insert:
    """The insert of that number is the block after it; version 10 for each."""
    message = insert(
        kinds or steps(1, run.layout),
        sequence=sequence,
        weights_version=10 * sequence,
        layout=run.layout,
        spec=run.spec,
    )
    storage.write(message)
    return message


def drawn(keys: Sequence[int], probability: Sequence[float] | None = None) -> Drawn:
    """As drawn from a table of 64 transitions, each with the probability 1/64 unless said."""
    return Drawn(
        instance=0,
        table_size=64,
        inserted=100,
        sampled=200,
        mass=1.0,
        request=0,
        probability=np.array(probability or [1 / 64] * len(keys), np.float32),
        key=np.array(keys, np.int64),
    )


def blank(run: Manifest) -> HostBatch:
    """A buffer full of what nobody wrote."""
    host = HostBatch(run, torch.device("cpu"))
    for view in host.views.values():
        view.fill(99)
    return host


def assert_holds(host: HostBatch, keys: Sequence[int], run: Manifest, sent: list[Insert]) -> None:
    """The batch is these transitions, as a slow walk through what was sent reads them."""
    stack = run.layout.frame_stack
    for i, key in enumerate(keys):
        block, offset = divmod(key, LENGTH)
        slow = transitions(sent[block - 1], run.layout, run.config.discount)[0, offset]
        shift = int(host.views["shift"][i])
        frames = host.views["frames"][i]
        assert frames[:stack].tolist() == slow.obs
        assert frames[shift : shift + stack].tolist() == slow.next_obs
        assert host.views["action"][i] == slow.action
        assert host.views["n_step_return"][i] == slow.n_step_return
        assert host.views["discount"][i] == slow.discount
