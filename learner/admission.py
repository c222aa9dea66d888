"""What a process must be like to be taken into a run, and how often a connection may speak.

The limits are far beyond what a run needs, and keep what strangers can make the head hold small.
"""

from collections import Counter

from common.errors import MalformedMessage, Reason, WireError
from common.messages import Join, Serving
from common.rejections import quoted

ROLES = ("actor", "evaluator", "inference", "relay", "replay_server")
MAX_MEMBERS = 10_000
MAX_ENVS = 100_000
"""In one actor, and in all actors together."""
MAX_NAME = 255
"""Characters of a host's, machine's or endpoint's name."""
MAX_PATH = 4_096
MAX_LINES = 2_000
"""Of the log, for members that come and go at once."""
MAX_MESSAGES = 500
"""Of one connection in each period; a member sends one or two a second."""


def check_join(join: Join) -> None:
    """Raises WireError when there can be no such process."""
    if join.role not in ROLES:
        raise WireError(f"role {quoted(join.role)!r} is unknown; a run has {', '.join(ROLES)}")
    if not 0 <= join.num_envs <= MAX_ENVS:
        raise MalformedMessage(
            f"{join.num_envs} environments are not between 0 and {MAX_ENVS}", Reason.RANGE
        )
    for name in (join.host, join.machine, join.metrics_endpoint):
        _check_length(name, MAX_NAME)


def check_serving(serving: Serving) -> None:
    """Raises MalformedMessage when nobody listens at such an address."""
    _check_length(serving.endpoint, MAX_NAME)
    _check_length(serving.machine, MAX_NAME)
    _check_length(serving.storage, MAX_PATH)


def _check_length(text: str, limit: int) -> None:
    if len(text) > limit:
        raise MalformedMessage(f"a name of {len(text)} characters", Reason.TOO_LARGE)


class FloodGate:
    """Lets MAX_MESSAGES of each connection through, then none until the period is over.

    What it turns away costs neither decoding nor an answer. It remembers the connections that
    spoke in this period, and no others.
    """

    def __init__(self) -> None:
        self._heard: Counter[bytes] = Counter()

    def check(self, peer: bytes) -> None:
        """Raises MalformedMessage when this connection has said enough."""
        self._heard[peer] += 1
        if self._heard[peer] > MAX_MESSAGES:
            raise MalformedMessage(
                f"more than {MAX_MESSAGES} messages a second on one connection", Reason.FLOOD
            )

    def open(self) -> None:
        """A new period begins."""
        self._heard.clear()


class LineBudget:
    """Lines that members' comings and goings may write: many at once, one a second in the long run,
    so that joins without end do not fill a disk."""

    def __init__(self) -> None:
        self._left = float(MAX_LINES)
        self._now_s = 0.0

    def allows(self, now_s: float) -> bool:
        """Whether there is one left. `now_s` is monotonic, in seconds."""
        self._left = min(self._left + max(now_s - self._now_s, 0.0), MAX_LINES)
        self._now_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
