"""One Q-learning update on the device."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from common.config import Config
from learner.losses import huber, q_target, squared, td_error, weighted_mean
from learner.optimizer import build_optimizer


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """N transitions on the learner's device, and what the host must remember of them."""

    frames: Tensor
    """[N, U, *obs_shape]"""
    shift: Tensor
    """[N] int64; both as in `common/transitions.py`."""
    action: Tensor
    """[N] int64"""
    n_step_return: Tensor
    discount: Tensor
    weight: Tensor
    """[N], importance weights"""
    key: npt.NDArray[np.int64]
    table_size: int
    inserted: int
    sampled: int
    mean_version: float
    slot: int
    """Which of the prefetcher's buffers these tensors live in."""


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What an update found out; reading it waits for the device."""

    packed: Tensor
    """[N + 2] on the host: |δ|, the loss, the mean Q-value of the actions taken."""
    ready: "torch.cuda.Event | None"

    def read(self) -> tuple[npt.NDArray[np.float32], float, float]:
        """|δ| [N], the loss, the mean Q-value."""
        if self.ready is not None:
            self.ready.synchronize()
        values = self.packed.numpy()
        return values[:-2], float(values[-2]), float(values[-1])


def stacks(frames: Tensor, shift: Tensor, frame_stack: int) -> tuple[Tensor, Tensor]:
    """What the network sees before and after a transition.

    Args:
        frames: [N, U, *obs_shape]; shift: [N] int64; both as in `common/transitions.py`.

    Returns:
        obs and next_obs, [N, *obs_shape] each, or [N, S, *obs_shape] for stacks of S > 1.
    """
    if frame_stack == 1:
        return frames[:, 0], frames[:, 1]
    places = shift[:, None] + torch.arange(frame_stack, device=shift.device)
    batch = torch.arange(len(frames), device=shift.device)[:, None]
    return frames[:, :frame_stack], frames[batch, places]


class QLearner:
    """Online and target network with their optimiser."""

    def __init__(self, network: nn.Module, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.online = network.to(device)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.optimizer = build_optimizer(config, self.online.parameters(), device)
        self.updates = 0
        """Learner updates since the run began."""
        self._parameters = list(self.online.parameters())
        self._loss = huber if config.loss == "huber" else squared

    def update(self, batch: TrainBatch) -> UpdateResult:
        """One gradient step; copies the target network every `target_update_period` updates."""
        obs, next_obs = stacks(batch.frames, batch.shift, self.config.frame_stack)
        with torch.no_grad():
            q_t_target = self.target(next_obs)
            q_t_selector = self.online(next_obs) if self.config.double else q_t_target
            target = q_target(q_t_target, q_t_selector, batch.n_step_return, batch.discount)
        q_tm1 = self.online(obs)
        delta = td_error(q_tm1, batch.action, target)
        loss = weighted_mean(self._loss(delta), batch.weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.config.max_grad_norm)
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.config.target_update_period == 0:
            self.copy_target()
        with torch.no_grad():
            mean_q = (target - delta).mean()
            packed = torch.cat([delta.abs(), loss.view(1), mean_q.view(1)])
        return self._to_host(packed)

    def copy_target(self) -> None:
        """target ← online."""
        self.target.load_state_dict(self.online.state_dict())

    def _to_host(self, packed: Tensor) -> UpdateResult:
        if self.device.type != "cuda":
            return UpdateResult(packed.detach().cpu(), None)
        host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        host.copy_(packed.detach(), non_blocking=True)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        # The default would be the stream of the current device, which need not be this one.
        ready.record(torch.cuda.current_stream(self.device))
        return UpdateResult(host, ready)


def batch_statistics(batch: TrainBatch) -> dict[str, Any]:
    """What a batch looked like, for the report of a loss that is not finite."""
    return {
        name: {
            "min": float(tensor.float().min()),
            "max": float(tensor.float().max()),
            "finite": bool(tensor.float().isfinite().all()),
        }
        for name, tensor in (
            ("frames", batch.frames),
            ("n_step_return", batch.n_step_return),
            ("discount", batch.discount),
            ("weight", batch.weight),
        )
    }
