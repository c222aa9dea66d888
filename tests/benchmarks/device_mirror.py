"""A prototype: the replay's frames once more, on the learner's device.

The learner's feed gathers a batch's frames in the host's memory and copies them to the device: 25
MB for 512 transitions of stacked Atari frames, each frame 56 times with 8 samples an insert. Here a
block crosses once, whole, when a transition of it is drawn for the first time, and what crosses for
a batch are the numbers of its rows; the device gathers it. That takes as much of the device's
memory as the replay's frames take of the host's.

All else is the learner's own: requests, priorities, stand-ins for what was overwritten. Both ways
stand side by side in `learner_fed`, on a GPU; it becomes the learner's where it wins there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zmq
from torch import Tensor

from common.block_columns import BlockColumns, memory_fence
from common.manifest import Manifest
from common.messages import Serving
from common.trace import NO_TRACE
from learner.batches import Batches
from learner.host_batch import HostBatch
from learner.mapped_replay import Int64Vector, MappedReplay
from learner.transfer import Transfer

STAGED_BLOCKS = 8
"""On their way to the device at once."""


class DeviceMirror:
    """Copies of a storage's blocks, made when they are asked for.

    Args:
        stream: of the device, on which blocks cross; None: a device that has none.
    """

    def __init__(
        self, columns: BlockColumns, device: torch.device, stream: "torch.cuda.Stream | None"
    ) -> None:
        self._columns, self._stream = columns, stream
        obs = torch.from_numpy(np.empty((0, *columns.obs.shape[1:]), columns.obs.dtype))
        self._blocks = obs.new_empty((columns.slots, *obs.shape[1:]), device=device)
        self.rows = self._blocks.flatten(0, 1)
        """As `BlockColumns.obs_rows`, on the device."""
        self._number = np.full(columns.slots, -1)
        self._staged = [
            obs.new_empty(obs.shape[1:], pin_memory=stream is not None)
            for _ in range(STAGED_BLOCKS)
        ]
        self._copied = [
            None if stream is None else torch.cuda.Event()  # type: ignore[no-untyped-call]
            for _ in range(STAGED_BLOCKS)
        ]
        self._copies = 0

    def bring(self, key: Int64Vector) -> npt.NDArray[np.bool_]:
        """Copy the blocks of these keys [K] that are not there yet; which of the keys name one that
        is there [K]."""
        block = key // self._columns.layout.length
        slot = block % self._columns.slots
        for missing in np.unique(slot[self._number[slot] != block]):
            self._copy(int(missing))
        there: npt.NDArray[np.bool_] = self._number[slot] == block
        return there

    def _copy(self, slot: int) -> None:
        number = int(self._columns.number[slot])
        if number in (0, self._number[slot]):
            return  # Is being overwritten, or was: what was drawn of it is gone.
        turn = self._copies % STAGED_BLOCKS
        self._copies += 1
        staged, copied = self._staged[turn], self._copied[turn]
        if copied is not None:
            copied.synchronize()
        memory_fence()
        np.copyto(staged.numpy(), self._columns.obs[slot])
        memory_fence()
        if self._columns.number[slot] != number:
            return
        with torch.cuda.stream(self._stream):
            self._blocks[slot].copy_(staged, non_blocking=copied is not None)
        if copied is not None:
            copied.record(self._stream)
        self._number[slot] = number


class MirroredReplay(MappedReplay):
    """Fills buffers with the numbers of rows in place of their frames."""

    def __init__(self, columns: BlockColumns, manifest: Manifest, mirror: DeviceMirror) -> None:
        super().__init__(columns, manifest.config.discount, manifest.config.seed)
        self._mirror = mirror

    def _live_items(self, key: Int64Vector) -> tuple[Int64Vector, npt.NDArray[np.bool_]]:
        there = self._mirror.bring(key)
        items, live = super()._live_items(key)
        return items, live & there

    def _take_frames(self, rows: Int64Vector, views: Mapping[str, npt.NDArray[Any]]) -> None:
        np.copyto(views["rows"], rows)


class MirroredHostBatch(HostBatch):
    """A `HostBatch` with rows, [N, U] int64, in place of frames."""

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        super().__init__(manifest, device)
        frames = self.tensors.pop("frames")
        rows = torch.zeros(frames.shape[:2], dtype=torch.int64, pin_memory=frames.is_pinned())
        self.tensors["rows"] = rows
        self.views = {name: tensor.numpy() for name, tensor in self.tensors.items()}


class MirroredTransfer(Transfer):
    """Copies the rows' numbers and gathers the frames behind them."""

    def __init__(
        self,
        hosts: list[MirroredHostBatch],
        device: torch.device,
        columns: BlockColumns,
    ) -> None:
        super().__init__(hosts, device)
        self.mirror = DeviceMirror(columns, device, self._stream)
        frame = self.mirror.rows.shape[1:]
        self._frames = [
            self.mirror.rows.new_empty((*host.tensors["rows"].shape, *frame)) for host in hosts
        ]
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def start(self, slot: int) -> tuple[dict[str, Tensor], "torch.cuda.Event | None"]:
        tensors, copied = super().start(slot)
        tensors, frames = dict(tensors), self._frames[slot]
        rows = tensors.pop("rows")
        with torch.cuda.stream(self._stream):
            torch.index_select(self.mirror.rows, 0, rows.flatten(), out=frames.flatten(0, 1))
        if copied is not None:
            copied.record(self._stream)
        return {"frames": frames, **tensors}, copied


class MirroredBatches(Batches):
    """The learner's connection to its replay server, with a mirror. The server must stay, and its
    storage be one that this process maps."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        server: Serving,
        manifest: Manifest,
        device: torch.device,
    ) -> None:
        super().__init__(context, server, manifest, device, NO_TRACE)
        mapped = self._link._mapped
        assert mapped is not None
        columns = mapped._columns
        hosts = [MirroredHostBatch(manifest, device) for _ in range(self.credit)]
        transfer = MirroredTransfer(hosts, device, columns)
        self._slots, self._transfer = list(hosts), transfer
        self._link._mapped = MirroredReplay(columns, manifest, transfer.mirror)
