"""Inserts that wait: for the rate limiter, or for a server that is behind."""

from collections import deque
from typing import NamedTuple

from common.compression import CompressedArray
from common.errors import MalformedMessage, Reason
from common.messages import Insert

MIN_WAITING_BYTES = 1 << 30
"""So much may wait at least, however small the replay and the run are."""
HELD_BESIDES = 4 << 10
"""Bytes that an insert takes beside its arrays: Python's objects, ZeroMQ's buffers."""


class Waiting(NamedTuple):
    """One insert in the line."""

    insert: Insert
    nbytes: int
    is_known: bool
    """Whether something of its session had been stored when it came."""
    since_s: float


class WaitingInserts:
    """A line of inserts, first in, first out.

    Args:
        max_bytes: memory for inserts of known sessions, and for those of others as much again:
            whoever invents sessions takes no room from actors that were there before.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._line: deque[Waiting] = deque()
        self._bytes = {True: 0, False: 0}

    def __len__(self) -> int:
        return len(self._line)

    def check_room(self, one: Waiting) -> None:
        """Raises MalformedMessage when there is none for this one."""
        if self._bytes[one.is_known] + one.nbytes > self._max_bytes:
            raise MalformedMessage(
                f"{len(self._line)} inserts wait already: too many actors, or a flood",
                Reason.FLOOD,
            )

    def append(self, one: Waiting) -> None:
        self._line.append(one)
        self._bytes[one.is_known] += one.nbytes

    def pop(self) -> Waiting:
        """The oldest."""
        one = self._line.popleft()
        self._bytes[one.is_known] -= one.nbytes
        return one


def held_bytes(insert: Insert) -> int:
    """Memory that an insert takes while it waits."""
    obs = insert.obs
    nbytes = obs.data.nbytes if isinstance(obs, CompressedArray) else obs.nbytes
    nbytes += insert.action.nbytes + insert.reward.nbytes
    return nbytes + insert.row_kind.nbytes + insert.priority.nbytes + HELD_BESIDES
