"""The optimisers of the configuration."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from common.config import Config
from learner.compilation import Compiled


class CentredRMSProp(torch.optim.Optimizer):
    """RMSProp divided by the gradient's standard deviation (Graves 2013, eq. 38–40):

        m ← m + (1 − α)(g − m),    v ← α(v + (1 − α)(g − m_old)²),    θ ← θ − lr · g / √(v + ε)

    v is the moving variance E[g²] − E[g]², tracked as such, and so never negative.
    torch.optim.RMSprop subtracts the two moments, which rounds to less than zero under a steady
    gradient, and its root to NaN; and it adds ε to the root.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        alpha: float,
        eps: float,
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "alpha": alpha, "eps": eps})
        self._update: Callable[..., None] = _centred_rmsprop
        if compiled:
            self._update = Compiled(_centred_rmsprop, "the optimiser's step")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step(parameters, group["lr"], group["alpha"], group["eps"])

    def _step(self, parameters: list[Tensor], lr: float, alpha: float, eps: float) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["mean"] = torch.zeros_like(parameter)
                self.state[parameter]["variance"] = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        means = [self.state[p]["mean"] for p in parameters]
        variances = [self.state[p]["variance"] for p in parameters]
        self._update(parameters, gradients, means, variances, lr, alpha, eps)


def _centred_rmsprop(
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    variances: list[Tensor],
    lr: float,
    alpha: float,
    eps: float,
) -> None:
    deviations = torch._foreach_sub(gradients, means)
    torch._foreach_add_(means, deviations, alpha=1.0 - alpha)
    torch._foreach_addcmul_(variances, deviations, deviations, value=1.0 - alpha)
    torch._foreach_mul_(variances, alpha)
    divisors = torch._foreach_add(variances, eps)
    torch._foreach_sqrt_(divisors)
    torch._foreach_addcdiv_(parameters, gradients, divisors, value=-lr)


def build_optimizer(
    config: Config, parameters: Iterable[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """Adam, or the paper's RMSProp."""
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adam":
        fused = config.fused_optimizer and device.type in ("cpu", "cuda", "mps")
        optimizer = torch.optim.Adam(
            parameters,
            lr=config.learning_rate,
            eps=config.adam_epsilon,
            fused=fused,
            foreach=not fused,
            # A CUDA graph cannot count its steps on the host.
            capturable=config.cuda_graph,
        )
    else:
        optimizer = CentredRMSProp(
            parameters,
            lr=config.learning_rate,
            alpha=config.rmsprop_decay,
            eps=config.rmsprop_epsilon,
            compiled=config.compile_update,
        )
    optimizer.register_load_state_dict_post_hook(_lay_out_as_parameters)
    return optimizer


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Moments that were loaded, in the memory format of their parameters: Adam's fused kernel on
    the CPU walks through both in the order of memory, and would take one weight's moments for
    another's."""
    for parameter, state in optimizer.state.items():
        for name, moment in state.items():
            if moment.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(moment)
