"""A clock that stands still while nobody listens."""


class ListeningClock:
    """Goes as long as somebody listens: who had no processor, or was stopped, for ten minutes must
    not hold them against those who spoke meanwhile, and were not heard.

    Args:
        now_s: monotonic, in seconds.
        longest_look_s: what lies between two looks counts as no more than this.
    """

    def __init__(self, now_s: float, longest_look_s: float) -> None:
        self._before_s, self._longest_look_s = now_s, longest_look_s
        self._passed_s = 0.0

    def at(self, now_s: float) -> float:
        """What it shows at each look. `now_s` is monotonic, in seconds, as is the answer, whose
        beginning is another."""
        self._passed_s += min(now_s - self._before_s, self._longest_look_s)
        self._before_s = now_s
        return self._passed_s
