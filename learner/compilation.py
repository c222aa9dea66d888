"""torch.compile that never ends a run: where there is no compiler, functions run as they are."""

import contextlib
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
import torch._functorch.config as compiler_config

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Compiled(Generic[Result]):
    """A function of tensors whose shapes never change, compiled at its first call.

    The default mode of torch.compile: operations are fused into few kernels. Its modes with CUDA
    graphs of their own are not used, because these would copy every input and hold every output
    once more; `learner/cuda_graph.py` captures the compiled kernels together with the optimiser.

    The first call may fail for reasons that have nothing to do with the function: no C++ compiler
    or no Python headers (CPU), no Triton (CUDA). Then the log says so, once, and the function
    itself runs from then on. It must not have changed anything where compiling fails, which is so
    for every function that is traced whole.
    """

    def __init__(self, function: Callable[..., Result], name: str) -> None:
        self._function = function
        self._name = name
        self._proved: Callable[..., Result] | None = None

    def __call__(self, *args: object) -> Result:
        if self._proved is not None:
            return self._proved(*args)
        run: Callable[..., Result] = self._function
        try:
            compiled = torch.compile(self._function, dynamic=False)
            with _backward_too():
                result = compiled(*args)
            run = compiled
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("%s runs uncompiled, because compiling it failed: %s", self._name, reason)
            result = run(*args)
        self._proved = run
        return result


def _backward_too() -> contextlib.AbstractContextManager[object]:
    """A call compiles its gradients, too, instead of leaving that to the first that are asked for:
    what fails then ends the run. Older versions of PyTorch do not have the option."""
    option = "force_non_lazy_backward_lowering"
    if not hasattr(compiler_config, option):
        return contextlib.nullcontext()
    patch: contextlib.AbstractContextManager[object] = compiler_config.patch(option, True)
    return patch
