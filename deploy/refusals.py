"""What the processes of a run refused so far, put in order for people to look at."""

from collections import Counter
from collections.abc import Mapping

from common.metrics import ROLES

HANDSHAKE = "handshake"
"""Beside the reasons of `common.errors.Reason`: connections that showed no key, or a wrong one."""
SHOWN = 3
"""Reasons that one line has room for."""

Refusals = dict[tuple[str, str], int]


def refusals(values: Mapping[str, float]) -> Refusals:
    """How many, by role and reason, the most first; without those of which there was none.

    Args:
        values: the run's metrics by name, of which most are about other things.
    """
    counts = {}
    for role in ROLES:
        handshakes = values.get(f"{role}_refused_peers_total", 0.0)
        if handshakes:
            counts[role, HANDSHAKE] = int(handshakes)
        messages = f"{role}_rejected_messages_total."
        for name, value in values.items():
            if value and name.startswith(messages):
                counts[role, name.removeprefix(messages)] = int(value)
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def in_a_line(found: Refusals) -> str:
    """The commonest reasons, whoever refused: 1,234 (flood 1,200, shape 30, range 4)."""
    by_reason: Counter[str] = Counter()
    for (_, reason), count in found.items():
        by_reason[reason] += count
    said = [f"{reason} {count:,}" for reason, count in by_reason.most_common(SHOWN)]
    more = ["…"] if len(by_reason) > SHOWN else []
    return f"{by_reason.total():,} ({', '.join(said + more)})"
