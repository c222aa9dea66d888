"""The shared-memory path: a learner on the replay server's host reads transitions itself.

The server sends keys and probabilities; rows are gathered from the mapped storage while it goes on
writing. A block that was overwritten meanwhile shows it by its number (`common/block_columns.py`):
what was read of it is thrown away and another transition of the batch stands in for it.
"""

import logging
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.block_columns import (
    HEADER_BYTES,
    INSTANCE,
    BlockColumns,
    block_bytes,
    buffer_header,
)
from common.errors import ConfigError, MalformedMessage, Reason
from common.manifest import Manifest
from common.messages import Drawn, Serving
from common.process import machine_id
from common.transitions import find_transitions
from learner.gatherer import Gatherer
from learner.host_batch import BatchRows

log = logging.getLogger(__name__)

Int64Vector = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Read:
    """What became of the transitions that were drawn."""

    key: Int64Vector
    """[N], of the transitions that are in the batch now."""
    probability: npt.NDArray[np.float32]
    """[N], with which they were drawn by their server."""
    mean_version: float
    """Of the weights that acted."""
    overwritten: int
    """Transitions that had to be replaced."""


class MappedReplay:
    """A replay server's storage, read-only."""

    def __init__(self, columns: BlockColumns, discount: float, seed: int) -> None:
        self._columns = columns
        self._discount = discount
        self._gatherer = Gatherer(columns)
        self._rng = np.random.default_rng([seed, 4])
        self._owners = {self.instance}

    @property
    def instance(self) -> int:
        """Whose the storage is now."""
        return int(self._columns.counters[INSTANCE])

    def holds(self, drawn: Drawn) -> bool:
        """Whether its keys name blocks of this storage. Those of a server that died since do: its
        successor has taken up the same blocks."""
        self._owners.add(self.instance)
        return drawn.instance in self._owners

    def read(self, host: BatchRows, drawn: Drawn) -> Read | None:
        """Fill `host` with the transitions drawn, all but their weights; None when all of them are
        overwritten.

        Raises MalformedMessage when the message is not one of this run.
        """
        columns, views = self._columns, host.views
        for name in ("key", "probability"):
            if getattr(drawn, name).shape != views["action"].shape:
                raise MalformedMessage(
                    f"drawn.{name} has shape {getattr(drawn, name).shape}", Reason.SHAPE
                )
        key, probability, overwritten = drawn.key, drawn.probability, 0
        items, live = self._live_items(key)
        if not live.all():
            if not live.any():
                return None
            taken = self._stand_ins(live)
            key, probability, items = key[taken], probability[taken], items[taken]
            overwritten = int(np.count_nonzero(~live))
        found = find_transitions(columns, items, self._discount, out=views)
        self._take_frames(found.rows, views)
        # What was read is worth something only where the block is still there.
        if not columns.all_live(key):
            _, whole = columns.live_items(key)
            if not whole.any():
                return None
            torn = np.flatnonzero(~whole)
            taken = self._stand_ins(whole)
            for view in views.values():
                view[torn] = view[taken[torn]]
            key, probability = key[taken], probability[taken]
            overwritten += len(torn)
        return Read(key, probability, found.mean_version, overwritten)

    def close(self) -> None:
        """End the threads that gather."""
        self._gatherer.close()

    def _live_items(self, key: Int64Vector) -> tuple[Int64Vector, npt.NDArray[np.bool_]]:
        return self._columns.live_items(key)

    def _take_frames(self, rows: Int64Vector, views: Mapping[str, npt.NDArray[Any]]) -> None:
        """The frames of rows [N, U] of the storage."""
        self._gatherer.copy(rows, views["frames"])

    def _stand_ins(self, usable: npt.NDArray[np.bool_]) -> Int64Vector:
        """Each place's own index where it is usable, that of a random usable one elsewhere [N]."""
        taken = np.arange(len(usable))
        missing = np.flatnonzero(~usable)
        if len(missing):
            taken[missing] = self._rng.choice(np.flatnonzero(usable), size=len(missing))
        return taken


def map_storage(server: Serving, manifest: Manifest) -> MappedReplay | None:
    """The storage of a replay server, if this process is to read it and can; says why if not.

    Raises ConfigError when the configuration insists on it and it cannot be.
    """
    config = manifest.config
    if config.replay_link == "wire":
        return None
    columns = _map(server, manifest)
    if isinstance(columns, BlockColumns):
        log.info("transitions are read from %s", server.storage)
        return MappedReplay(columns, config.discount, config.seed)
    if config.replay_link == "shared_memory":
        raise ConfigError(
            f"replay_link = shared_memory is not possible: {columns}. Choose auto or wire, or "
            "start the replay server on this host with its storage where this process sees it"
        )
    log.info("batches come over the wire: %s", columns)
    return None


def _map(server: Serving, manifest: Manifest) -> BlockColumns | str:
    """The mapped storage, or why there is none."""
    if not server.storage:
        return "the replay server keeps its experience in memory of its own"
    if server.machine != machine_id():
        return "the replay server is on another host"
    shape = (manifest.spec, manifest.layout, manifest.config.replay_slots)
    path, nbytes = Path(server.storage), block_bytes(*shape)
    try:
        # Opening what a replay server names must not wait for a writer, as a FIFO's does.
        if path.is_fifo():
            return f"{path} is a FIFO"
        with path.open("rb") as file:
            if file.read(HEADER_BYTES).rstrip(b"\0") != buffer_header(*shape):
                return f"{path} is another replay's"
            mapped = mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        return f"{path} cannot be mapped ({error})"
    return BlockColumns(*shape, mapped)
