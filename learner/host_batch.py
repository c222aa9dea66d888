"""Host memory for one batch: filled by the learner's feed, copied to the device from there."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from common.compression import copy_array
from common.errors import MalformedMessage, Reason
from common.manifest import Manifest
from common.messages import Batch
from learner.losses import importance_weights


class BatchRows:
    """A stretch of the transitions of a `HostBatch`."""

    def __init__(self, manifest: Manifest, views: dict[str, npt.NDArray[Any]]) -> None:
        self._manifest = manifest
        self.views = views

    def __len__(self) -> int:
        return len(self.views["action"])

    def rows(self, first: int, count: int) -> "BatchRows":
        """`count` of them, from `first` on."""
        cut = slice(first, first + count)
        return BatchRows(self._manifest, {name: view[cut] for name, view in self.views.items()})

    def fill(self, batch: Batch) -> None:
        """Take transitions that came over the wire, all but their weights.

        Raises MalformedMessage when they are not what the manifest says, or not as many.
        """
        self._check(batch)
        copy_array(batch.frames, self.views["frames"])
        for name in ("shift", "action", "n_step_return", "discount"):
            np.copyto(self.views[name], getattr(batch, name))

    def _check(self, batch: Batch) -> None:
        frames, spec = self.views["frames"], self._manifest.spec
        if batch.frames.shape != frames.shape or batch.frames.dtype != frames.dtype:
            raise MalformedMessage(
                f"batch.frames is {batch.frames.dtype} {batch.frames.shape}", Reason.SHAPE
            )
        for name in ("shift", "action", "n_step_return", "discount", "probability", "key"):
            if getattr(batch, name).shape != (len(frames),):
                raise MalformedMessage(
                    f"batch.{name} has shape {getattr(batch, name).shape}", Reason.SHAPE
                )
        if batch.action.min() < 0 or batch.action.max() >= spec.num_actions:
            raise MalformedMessage(
                f"batch.action is not in 0 … {spec.num_actions - 1}", Reason.RANGE
            )
        last_shift = frames.shape[1] - self._manifest.config.frame_stack
        if batch.shift.max() > last_shift:
            raise MalformedMessage(f"batch.shift is not in 0 … {last_shift}", Reason.RANGE)


class HostBatch(BatchRows):
    """The tensors of a `learner.update.TrainBatch`, page-locked when they are copied to a GPU."""

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        n, spec = manifest.config.batch_size, manifest.spec
        frames_shape = (n, manifest.layout.frames_per_transition, *spec.obs_shape)
        obs_dtype = torch.from_numpy(np.empty(0, spec.dtype)).dtype
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "frames": (frames_shape, obs_dtype),
            "shift": ((n,), torch.int64),
            "action": ((n,), torch.int64),
            "n_step_return": ((n,), torch.float32),
            "discount": ((n,), torch.float32),
            "weight": ((n,), torch.float32),
        }
        pinned = device.type == "cuda"
        # Zeroed, so that the first batch does not pay for the pages.
        self.tensors = {
            name: torch.zeros(shape, dtype=dtype, pin_memory=pinned)
            for name, (shape, dtype) in shapes.items()
        }
        super().__init__(manifest, {name: t.numpy() for name, t in self.tensors.items()})

    def weigh(self, probability: npt.NDArray[np.float32], table_size: int) -> None:
        """Importance weights of the transitions here, drawn with `probability` [N] from a table.

        Raises MalformedMessage when these are no probabilities, or nothing was in that table.
        """
        if table_size < 1:
            raise MalformedMessage(f"table_size is {table_size}", Reason.RANGE)
        config = self._manifest.config
        exponent = config.importance_sampling_exponent if config.prioritized else 0.0
        try:
            importance_weights(probability, exponent, out=self.views["weight"])
        except ValueError as error:
            raise MalformedMessage(str(error), Reason.RANGE) from error
