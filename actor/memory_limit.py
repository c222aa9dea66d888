"""How large an actor may grow, for environments that leak."""

import multiprocessing

import psutil

from common.errors import ConfigError, MemoryLimitReached

LOOK_PERIOD_S = 1.0
"""As often as a heartbeat is sent."""
MIB = 1 << 20


class MemoryLimit:
    """Resident memory of this process and of all below it, against a limit.

    What processes share is counted for each: a bound that is cheap to look at, not an account.

    Args:
        limit_mib: None: there is none, and nothing is looked at.
        env: the environment's id.
    """

    def __init__(self, limit_mib: float | None, env: str) -> None:
        self._limit_mib, self._env = limit_mib, env
        self._process = psutil.Process()
        self._next_look_s = 0.0
        self._found: dict[str, float] = {}
        """Memory in MiB by process, when it was looked at last."""

    def check_start(self) -> None:
        """To be called once the environments have been stepped.

        Raises ConfigError when the limit is reached before anything can have leaked.
        """
        if self._limit_mib is not None and self._look() > self._limit_mib:
            raise ConfigError(
                f"actor_memory_limit = {self._limit_mib:g} MiB, but an actor with "
                f"{self._env} takes {self._total():.0f} MiB from the start: raise it, or lower "
                "envs_per_actor"
            )

    def is_reached(self, now_s: float) -> bool:
        """Looks once a second. `now_s` is monotonic, in seconds."""
        if self._limit_mib is None or now_s < self._next_look_s:
            return False
        self._next_look_s = now_s + LOOK_PERIOD_S
        return self._look() > self._limit_mib

    def fault(self) -> MemoryLimitReached:
        """What the last look has found."""
        largest = max(self._found, key=lambda name: self._found[name])
        return MemoryLimitReached(
            f"{self._env} has grown to {self._total():.0f} MiB, most of it "
            f"({self._found[largest]:.0f} MiB) in {largest}: actor_memory_limit = "
            f"{self._limit_mib:g} MiB"
        )

    def _look(self) -> float:
        self._found = {"the actor's own process": self._process.memory_info().rss / MIB}
        # Gymnasium numbers the processes of environments in their names.
        numbers = {p.pid: p.name.rpartition("-")[2] for p in multiprocessing.active_children()}
        for child in self._process.children(recursive=True):
            number = numbers.get(child.pid)
            name = f"process {child.pid}" if number is None else f"environment {number}"
            try:
                self._found[name] = child.memory_info().rss / MIB
            except psutil.Error:
                continue  # It has just ended.
        return self._total()

    def _total(self) -> float:
        return sum(self._found.values())
