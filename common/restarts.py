"""When a role that ended is started again, and when not any more (docs/adr/0021).

A pure rule: an ending and what came before it in, a verdict out. Two things end a role:

- It fails: it raised, it crashed in C code, its host ran out of memory. It would do so again.
  MAX_FAILURES of them, without HEALTHY_S of being ready in between, end the run.
- Somebody ends it: a signal from outside, or its own memory limit. Nothing is wrong with it. Only
  MAX_KILLS in a row that did not let it work at all end the run.

The launcher, the parent of a host's actors, the head in a container and the engines that place
processes elsewhere all go by it; `Patience` is what they may see differently.
"""

import signal
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import (
    CheckpointError,
    ConfigError,
    EnvironmentFault,
    MemoryLimitReached,
    ZapexError,
)

MAX_FAILURES = 5
"""Restarts after failures in a row; the next one ends the run."""
HEALTHY_S = 600.0
"""Being ready for so long in all ends a row of failures. Kubernetes forgets crashes after the same
time."""
MAX_KILLS = 20
"""Restarts after kills in a row."""
WORKED_S = 1.0
"""Being ready for so long at once ends a row of kills."""

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a role that a signal stopped; for the learner a signal is a way to end the run."""
HOPELESS = {
    ConfigError.exit_code,
    EnvironmentFault.exit_code,
    CheckpointError.exit_code,
    ZapexError.exit_code,  # No room for the replay; whatever else the host ran out of.
}
"""Exit codes that a restart cannot mend while the role has never been ready."""
FROM_OUTSIDE = {
    -signal.SIGKILL,
    -signal.SIGTERM,
    -signal.SIGINT,
    -signal.SIGHUP,
    TERMINATED,
    MemoryLimitReached.exit_code,
}
"""Exit codes of a role that was ended rather than failed; negative: the signal that killed it."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, and whether to give up."""

    first_backoff_s: float = 0.2
    """Before the first restart of a row; doubled for each that follows."""
    last_backoff_s: float = 10.0
    endless: bool = False
    """Never give up: what is elsewhere may be away for days, and the run goes on without it."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended that nobody of this run had asked to."""

    role: str
    code: int
    """Exit code, or minus the signal that killed it."""
    explained: bool
    """Whether it said why."""
    ready_for_s: float | None
    """Since it said that it was ready; None: it never did."""
    out_of_memory: bool = False
    """The kernel killed it, or something else, for want of memory."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do."""

    backoff_s: float | None
    """To wait before the restart; None: the run is over."""
    tries: str
    """For the message: which attempt it is, or how many there were."""
    attempt: int = 0
    """Which restart of its row this is, from 1; 0: none."""


@dataclass(slots=True)
class RestartPolicy:
    """What is to become of one role."""

    patience: Patience = field(default_factory=Patience)
    was_ever_ready: bool = False
    failures: int = 0
    """In a row."""
    kills: int = 0
    """In a row."""
    healthy_s: float = 0.0
    """Time of being ready since the last failure."""

    def decide(self, ending: Ending) -> Verdict:
        """Take note of an ending; what to do about it."""
        if ending.ready_for_s is not None:
            self.was_ever_ready = True
            self.healthy_s += ending.ready_for_s
        if self.healthy_s >= HEALTHY_S:
            self.failures = 0
        if ending.code in FROM_OUTSIDE and not ending.out_of_memory:
            return self._killed(ending)
        # A learner that explains itself (NaN, a full disk, a wrong network) would do so again.
        hopeless = (ending.code in HOPELESS and not self.was_ever_ready) or (
            ending.explained and ending.role == "learner"
        )
        self.healthy_s = 0.0
        in_vain = self.failures >= MAX_FAILURES and not self.patience.endless
        if hopeless or in_vain:
            return Verdict(None, _in_vain(self.failures))
        self.failures += 1
        return self._again(self.failures, f" ({self.failures} of {MAX_FAILURES})")

    def _killed(self, ending: Ending) -> Verdict:
        if ending.ready_for_s is not None and ending.ready_for_s >= WORKED_S:
            self.kills = 0
        if self.kills >= MAX_KILLS and not self.patience.endless:
            return Verdict(None, _in_vain(self.kills))
        self.kills += 1
        return self._again(self.kills, "")

    def _again(self, attempt: int, tries: str) -> Verdict:
        patience = self.patience
        # 2**30 is beyond every limit; a host may be away for days.
        backoff_s = patience.first_backoff_s * 2.0 ** min(attempt - 1, 30)
        backoff_s = min(backoff_s, patience.last_backoff_s)
        return Verdict(backoff_s, "" if patience.endless else tries, attempt)


def _in_vain(restarts: int) -> str:
    return f" ({restarts} restarts did not help)" if restarts else ""


class MemoryWatch:
    """Has the kernel killed somebody on this host for want of memory?"""

    def __init__(self, counters: Path = Path("/proc/vmstat")) -> None:
        self._counters = counters
        self._kills = self._read()

    def ran_out(self) -> bool:
        """Since the last call, or since this was made."""
        before, self._kills = self._kills, self._read()
        return self._kills > before

    def _read(self) -> int:
        """0 where the system does not tell."""
        try:
            lines = self._counters.read_text().splitlines()
        except OSError:
            return 0
        return next((int(x.split()[1]) for x in lines if x.startswith("oom_kill ")), 0)
