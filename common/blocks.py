"""The block: a self-contained piece of one environment's stream.

    row        0 ... C−1 │ C ............ C+L−1 │ C+L ... C+L+n−1
               context   │ may start            │ tail, to bootstrap from

A stream has one row per observation: the observation, the action taken there, the reward that
followed, and a kind. The last row of an episode holds its true final observation and starts no
transition. `context` rows (frame_stack − 1) serve stacking; `length` rows (L) may start a
transition; `n_step` rows (n) let the last of those bootstrap. Neighbouring blocks of a stream
overlap by context + n_step rows, so that no block ever needs another one.
"""

import enum
from dataclasses import dataclass

MAX_REWARD = 1e12
"""Of each row, as the learner has it, either way: the squares of errors in the sum of 255 of them
(`Config.n_step`) are finite in float32, and so is their mean over any batch."""


class RowKind(enum.IntFlag):
    """Facts about one row. A row with neither of the last two is an ordinary step."""

    STEP = 0
    FIRST = 1
    """The first observation of an episode."""
    TERMINATED = 2
    """The final observation of an episode that ended by the environment's rules: discount 0."""
    TRUNCATED = 4
    """The final observation of an episode that was cut off: bootstrapped from."""

    LAST = TERMINATED | TRUNCATED


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """How many rows of each sort a block has."""

    length: int
    n_step: int
    context: int = 0

    @property
    def rows(self) -> int:
        return self.context + self.length + self.n_step

    @property
    def frame_stack(self) -> int:
        """S, newest observations that the network sees together."""
        return self.context + 1

    @property
    def frames_per_transition(self) -> int:
        """U, rows that a transition's two stacks are made of (`common/transitions.py`)."""
        return self.frame_stack + min(self.n_step, self.frame_stack)

    @property
    def overlap(self) -> int:
        """Rows that the next block of the stream repeats."""
        return self.context + self.n_step
