"""Is what peers send possible? Checked before anything of it is stored."""

import numpy as np
import numpy.typing as npt

from common.compression import Array, CompressedArray
from common.errors import MalformedMessage, Reason
from common.finite import all_finite
from common.messages import MAX_INSERT_BYTES, Insert, PartRequest, SampleRequest
from replay_server.ranges import FAULTS, are_priorities, first_fault
from replay_server.storage import Storage


class InsertCheck:
    """Compares inserts with what the storage takes."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._scratch: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._in_scratch: Insert | None = None

    def check(self, insert: Insert) -> None:
        """Raises MalformedMessage when these are no blocks of this run, as far as can be seen
        without unpacking them."""
        storage, num_actions = self._storage, self._storage.spec.num_actions
        blocks = len(insert.action)
        rows = (blocks, storage.obs.shape[1])
        if not 1 <= blocks <= storage.slots:
            raise MalformedMessage(
                f"{blocks} blocks in an insert, between 1 and the capacity", Reason.RANGE
            )
        columns = (insert.obs, insert.action, insert.reward, insert.row_kind, insert.priority)
        shapes = [column.shape for column in columns]
        each = storage.priority.shape[1]
        expected = [(blocks, *storage.obs.shape[1:]), rows, rows, rows, (blocks, each)]
        if shapes != expected:
            names = ("obs", "action", "reward", "row_kind", "priority")
            for name, shape, wanted in zip(names, shapes, expected, strict=True):
                if shape != wanted:
                    raise MalformedMessage(
                        f"insert.{name} has shape {shape}, expected {wanted}", Reason.SHAPE
                    )
        dtype = storage.obs.dtype
        if insert.obs.dtype != dtype:
            raise MalformedMessage(
                f"insert.obs is {insert.obs.dtype}, expected {dtype}", Reason.DTYPE
            )
        if insert.obs.nbytes > MAX_INSERT_BYTES:
            raise MalformedMessage(
                f"insert.obs has {insert.obs.nbytes} bytes, at most {MAX_INSERT_BYTES}",
                Reason.TOO_LARGE,
            )
        if insert.session < 0 or insert.sequence < 0 or insert.connection < 0:
            raise MalformedMessage(
                "insert: session, sequence and connection count from 0", Reason.SEQUENCE
            )
        fault = first_fault(
            insert.action, num_actions, insert.row_kind, insert.reward, insert.priority
        )
        if fault:
            what, reason = FAULTS[fault]
            raise MalformedMessage(f"insert.{what.format(last_action=num_actions - 1)}", reason)
        if dtype.kind != "f" or isinstance(insert.obs, CompressedArray):
            return
        if not all_finite(insert.obs.reshape(-1)):
            raise MalformedMessage("insert.obs is not finite", Reason.NON_FINITE)

    def unpack(self, insert: Insert) -> None:
        """Raises MalformedMessage when a checked insert's images cannot be unpacked. While it waits
        to be stored, it stays small."""
        if isinstance(insert.obs, CompressedArray):
            self._in_scratch = None
            if len(self._scratch) < insert.obs.nbytes:
                self._scratch = np.empty(insert.obs.nbytes, np.uint8)
            insert.obs.copy_to(self._scratch[: insert.obs.nbytes])
            self._in_scratch = insert

    def observations(self, insert: Insert) -> Array:
        """Of an insert; until the next one is unpacked they are so still."""
        if insert is not self._in_scratch:
            return insert.obs
        flat = self._scratch[: insert.obs.nbytes].view(insert.obs.dtype)
        return flat.reshape(insert.obs.shape)


def check_priorities(request: SampleRequest | PartRequest) -> None:
    """Raises MalformedMessage when keys and priorities do not fit together, or are none."""
    if request.key.shape != request.priority.shape:
        raise MalformedMessage(
            f"{request.kind}: as many priorities as keys are expected", Reason.SHAPE
        )
    if not are_priorities(request.priority):
        finite = all_finite(request.priority)
        raise MalformedMessage(
            f"{request.kind}.priority is negative or not finite",
            Reason.RANGE if finite else Reason.NON_FINITE,
        )
