"""Messages that a process did not accept: counted by reason, and logged so that a flood of them
cannot fill a disk.

A stranger decides how many there are, so nothing here grows with them: the reasons are a closed
set (`common.errors.Reason`), and each has at most one line a second.
"""

import logging

from common.errors import Reason, WireError
from common.metrics import Values

LOG_PERIOD_S = 1.0
"""Between two lines about the same reason."""
MAX_TEXT = 300
"""Characters of a line that a stranger may have chosen."""

log = logging.getLogger(__name__)


def quoted(text: str) -> str:
    """What a stranger wrote, fit for a log: short, on one line, without control characters."""
    return "".join(c if c.isprintable() else "�" for c in text[:MAX_TEXT])


class Rejections:
    """One process's. One thread counts; others may read.

    Args:
        metric: the counter's name in `common/metric_table.py`.
    """

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self.by_reason = dict.fromkeys(Reason, 0)
        self._next_line_s = dict.fromkeys(Reason, float("-inf"))
        self._unsaid = dict.fromkeys(Reason, 0)

    @property
    def total(self) -> int:
        return sum(self.by_reason.values())

    def count(self, error: WireError, now_s: float) -> None:
        """One more. `now_s`: the monotonic clock, in seconds."""
        reason = error.reason
        self.by_reason[reason] += 1
        if now_s < self._next_line_s[reason]:
            self._unsaid[reason] += 1
            return
        self._next_line_s[reason] = now_s + LOG_PERIOD_S
        others, self._unsaid[reason] = self._unsaid[reason], 0
        more = f", and {others} others since the line before" if others else ""
        log.warning("rejected a message (%s): %.300s%s", reason, error, more)

    def values(self) -> Values:
        """The total by the counter's name, and the reasons that occurred by NAME.REASON."""
        found: Values = {self._metric: self.total}
        for reason, count in self.by_reason.items():
            if count:
                found[f"{self._metric}.{reason}"] = count
        return found
