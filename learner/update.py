"""One Q-learning update on the device."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from common.config import Config
from common.networks import set_memory_format
from learner.compilation import Compiled
from learner.cuda_graph import CudaRecorder, GraphedStep
from learner.device import autocast_dtype, memory_format
from learner.losses import huber, q_target, squared, td_error, weighted_mean
from learner.optimizer import build_optimizer
from learner.readback import Readback, UpdateResult
from learner.weights import Snapshot

log = logging.getLogger(__name__)


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
    inserted: Mapping[int, int]
    """Transitions inserted since the run began, by replay server."""
    sampled: int
    mean_version: float
    slot: int
    """Which of the feed's buffers these tensors live in."""
    copied: "torch.cuda.Event | None" = None
    """When the tensors are there; None: they are."""


def stacks(frames: Tensor, shift: Tensor, frame_stack: int) -> tuple[Tensor, Tensor]:
    """What the network sees before and after a transition.

    Args:
        frames: [N, U, *obs_shape]; shift: [N] int64; both as in `common/transitions.py`.

    Returns:
        obs and next_obs, [N, *obs_shape] each, or [N, S, *obs_shape] for stacks of S > 1.
    """
    if frame_stack == 1:
        return frames[:, 0], frames[:, 1]
    n, rows = frames.shape[:2]
    first = torch.arange(0, n * rows, rows, device=shift.device) + shift
    places = first[:, None] + torch.arange(frame_stack, device=shift.device)
    # Whole rows are copied, where an index of two axes would copy number by number.
    next_rows = frames.flatten(0, 1).index_select(0, places.flatten())
    return frames[:, :frame_stack], next_rows.view(n, frame_stack, *frames.shape[2:])


class QLearner:
    """Online and target network with their optimiser.

    What an update does on the device is `_step`; it makes no decision and never waits, so that it
    can be compiled, or recorded as a CUDA graph. What the host decides is in `update`.
    """

    def __init__(self, network: nn.Module, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.online = network.to(device)
        set_memory_format(self.online, memory_format(config, network, device))
        # As actors and evaluator have it: no dropout, and BatchNorm with its running averages.
        self.target = copy.deepcopy(self.online).requires_grad_(False).eval()
        self._selector = _in_eval_mode(self.online)
        """Chooses the bootstrap action."""
        self.optimizer = build_optimizer(config, self.online.parameters(), device)
        self.updates = 0
        """Learner updates since the run began."""
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.autocast == "float16")
        """Keeps small gradients within float16's range."""
        self._parameters = list(self.online.parameters())
        self._autocast_dtype = autocast_dtype(config, network, device)
        log.info("updates run on %s, products in %s", device, self._autocast_dtype or torch.float32)
        self._loss = huber if config.loss == "huber" else squared
        self._double, self._frame_stack = config.double, config.frame_stack
        self._readback = Readback(device)
        self._snapshot_stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._snapshot_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # Shapes never change: timing cuDNN's algorithms once pays. But the fastest is not the
            # same one every time.
            torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        self._objective: Callable[..., tuple[Tensor, Tensor]] = self._loss_and_findings
        if config.compile_update:
            self._objective = Compiled(self._loss_and_findings, "the loss")
        self._run: Callable[..., Tensor] = self._step
        if config.cuda_graph:
            self._run = graphed = GraphedStep(self._step, CudaRecorder(device))
            # A resumed optimiser has its moments elsewhere.
            self.optimizer.register_load_state_dict_post_hook(lambda _: graphed.forget())

    def update(self, batch: TrainBatch) -> UpdateResult:
        """One gradient step; copies the target network every `target_update_period` updates."""
        if batch.copied is not None:
            batch.copied.wait(torch.cuda.current_stream(self.device))
        findings = self._run(
            batch.frames,
            batch.shift,
            batch.action,
            batch.n_step_return,
            batch.discount,
            batch.weight,
        )
        self.updates += 1
        if self.updates % self.config.target_update_period == 0:
            self.copy_target()
        return self._readback.start(findings)

    def copy_target(self) -> None:
        """target ← online."""
        self.target.load_state_dict(self.online.state_dict())

    def snapshot(self, dtype: str = "float32") -> Snapshot:
        """The online network as it is after the updates so far."""
        return Snapshot(self.online, dtype, self._snapshot_stream)

    def _step(self, *batch: Tensor) -> Tensor:
        """A gradient step; what it found, [N + 2]: |δ|, the loss, the mean Q-value."""
        loss, findings = self._objective(*batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.config.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self.config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return findings

    def _loss_and_findings(
        self,
        frames: Tensor,
        shift: Tensor,
        action: Tensor,
        n_step_return: Tensor,
        discount: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Tensor]:
        obs, next_obs = stacks(frames, shift, self._frame_stack)
        with torch.no_grad():
            q_t_target = self._q_values(self.target, next_obs)
            q_t_selector = self._q_values(self._selector, next_obs) if self._double else q_t_target
            target = q_target(q_t_target, q_t_selector, n_step_return, discount)
        delta = td_error(self._q_values(self.online, obs), action, target)
        loss = weighted_mean(self._loss(delta), weight)
        with torch.no_grad():
            mean_q = (target - delta).mean()
            findings = torch.cat([delta.abs(), loss.view(1), mean_q.view(1)])
        return loss, findings

    def _q_values(self, network: nn.Module, obs: Tensor) -> Tensor:
        """[N, A], float32."""
        if self._autocast_dtype is None:
            q_values: Tensor = network(obs)
            return q_values
        # Each forward has a context of its own: within one, weights that were cast without
        # gradients would serve the forward that needs them, and none would reach the weights.
        with torch.autocast(self.device.type, self._autocast_dtype):
            q_values = network(obs)
        return q_values.float()


def _in_eval_mode(network: nn.Module) -> nn.Module:
    """A twin in eval mode with the same weights and buffers, also after they have changed."""
    # Tensors for modules that have them in a list of their own, too, as nn.LSTM; the tables for
    # those that put a new tensor in a buffer's place.
    tensors = (*network.parameters(), *network.buffers())
    tables = [table for m in network.modules() for table in (m._parameters, m._buffers)]
    return copy.deepcopy(network, {id(shared): shared for shared in (*tensors, *tables)}).eval()


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
