"""What an update found out, on its way back from the device while the next update runs."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class UpdateResult:
    """|δ|, the loss and the mean Q-value of an update; reading them waits for the device."""

    def __init__(self, wait: Callable[[], npt.NDArray[np.float32]]) -> None:
        self._wait: Callable[[], npt.NDArray[np.float32]] | None = wait
        self._values: npt.NDArray[np.float32] = np.empty(0, np.float32)

    def read(self) -> tuple[npt.NDArray[np.float32], float, float]:
        """|δ| [N], the loss, the mean Q-value of the actions taken."""
        if self._wait is not None:
            self._values, self._wait = self._wait(), None
        return self._values[:-2], float(self._values[-2]), float(self._values[-1])


class Readback:
    """Starts the copies to the host. On CUDA none of them waits or allocates: page-locked buffers,
    each with its event, go round."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: list[tuple[Tensor, torch.cuda.Event]] = []

    def start(self, packed: Tensor) -> UpdateResult:
        """The result of an update that is in line on the current stream.

        `packed` [N + 2]: |δ|, the loss, the mean Q-value; it may be overwritten by what is put in
        line after this call.
        """
        if self._device.type != "cuda":
            values: npt.NDArray[np.float32] = packed.cpu().numpy()
            return UpdateResult(lambda: values)
        if self._free:
            host, copied = self._free.pop()
        else:
            host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        host.copy_(packed, non_blocking=True)
        # The default would be the stream of the current device, which need not be this one.
        copied.record(torch.cuda.current_stream(self._device))
        return UpdateResult(lambda: self._finish(host, copied))

    def _finish(self, host: Tensor, copied: torch.cuda.Event) -> npt.NDArray[np.float32]:
        copied.synchronize()
        values: npt.NDArray[np.float32] = host.numpy().copy()
        self._free.append((host, copied))
        return values
