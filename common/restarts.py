"""When to start again what has ended: sooner at first, later when it keeps ending, not for ever.

Names and times in, decisions out; whoever restarts has the clock.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Restarts:
    """The recent past of things that are restarted, by name."""

    first_s: float = 0.2
    """Before the first restart; doubled for each that follows within the window."""
    last_s: float = 10.0
    most: int | None = 5
    """Restarts within the window after which it is no use; None: it always is."""
    window_s: float = 60.0
    _past: dict[str, list[float]] = field(default_factory=dict)

    def recent(self, name: str, now_s: float) -> int:
        """Restarts of that name within the window."""
        return sum(now_s - t < self.window_s for t in self._past.get(name, ()))

    def delay_s(self, name: str, now_s: float) -> float | None:
        """How long to wait before the restart that is now due, which counts; None: give up."""
        past = [t for t in self._past.get(name, ()) if now_s - t < self.window_s]
        if self.most is not None and len(past) >= self.most:
            return None
        self._past[name] = [*past, now_s]
        # 2**30 is beyond every limit; a host may be away for days.
        return min(self.first_s * 2.0 ** min(len(past), 30), self.last_s)
