"""How far the inserts of each actor have come: one that is sent again is stored once."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_REMEMBERED_SESSIONS = 100_000
"""Sessions whose last sequence number is remembered, for dropping duplicates."""
SESSIONS_LOOKED_AT = 8
"""When there are too many."""


@dataclass(slots=True)
class Session:
    """What is known of one actor's membership."""

    stored: int = -1
    """Highest sequence number stored."""
    received: int = -1
    """Highest sequence number stored or waiting."""
    peer: bytes = b""
    """Where its acknowledgements go: its newest connection."""
    connection: int = 0
    """The number it gives to that."""
    waiting: int = 0
    """Inserts that are yet to be stored."""
    given_up: int = 0
    """The oldest of these, which nobody waits for: the actor was sent elsewhere, and came back."""

    def hear(self, peer: bytes, connection: int) -> None:
        """An insert came from there. ZeroMQ may hand over what a dead connection left behind after
        what came over the new one, and acknowledgements to the dead one would reach nobody."""
        if connection >= self.connection:
            self.peer, self.connection = peer, connection


class Sessions(OrderedDict[int, Session]):
    """By their numbers, in the order in which they were last heard of."""

    def remember(self, number: int, session: Session) -> None:
        """This is the newest. When there are too many, the oldest go; those that wait are kept:
        there are no more of them than of inserts that wait."""
        self[number] = session
        self.move_to_end(number)
        looked_at = 0
        while len(self) > MAX_REMEMBERED_SESSIONS and looked_at < SESSIONS_LOOKED_AT:
            oldest, other = self.popitem(last=False)
            if other.waiting:
                self[oldest] = other
            looked_at += 1

    def restore(self, session: npt.NDArray[np.int64], sequence: npt.NDArray[np.int64]) -> None:
        """Take up those that blocks [B] came from, which are in the order of their writing."""
        newest = len(session) - 1 - np.unique(session[::-1], return_index=True)[1]
        for i in np.sort(newest):
            stored = int(sequence[i])
            self[int(session[i])] = Session(stored=stored, received=stored)
