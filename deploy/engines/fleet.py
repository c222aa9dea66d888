"""What runs elsewhere: kept running for as long as the head does, by whoever started it.

A place that cannot be reached is said once and tried again, later each time; the run goes on with
the others. Only when no place is left that could act is it the run's end.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from common.children import role_failed
from common.errors import ConfigError, EnvironmentFault
from common.restarts import Ending, Patience, RestartPolicy

STOP_S = 10.0
"""What has not ended so long after it was asked to is left to end by itself."""
STOP_POLL_S = 0.05
PATIENCE = Patience(first_backoff_s=1.0, last_backoff_s=30.0, endless=True)
HOPELESS = {ConfigError.exit_code, EnvironmentFault.exit_code}
"""Exit codes that would be the same again."""
TAIL_BYTES = 4_096
"""How much of a log is read for its last line."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command elsewhere ended."""

    exit_code: int
    words: str
    """Its last line, or why it could not be started."""


def last_words(file: BinaryIO, began_at: int) -> str:
    """The last line that a command wrote to a log, from where its output begins; empty: none."""
    file.seek(max(began_at, file.seek(0, os.SEEK_END) - TAIL_BYTES))
    lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    said = [line for line in lines if line]
    return said[-1].removeprefix("error: ") if said else ""


class Place(Protocol):
    """Somewhere a command runs."""

    @property
    def name(self) -> str: ...

    @property
    def vital(self) -> bool:
        """Whether the run cannot go on without it."""

    @property
    def acts(self) -> bool:
        """Whether what runs there are actors."""

    def start(self, head: str) -> None:
        """Start the command, which is to join that head. Does not wait."""

    def ended(self) -> Ended | None:
        """How it ended since it was last started, once it has."""

    def ask_to_stop(self) -> None:
        """Ask it to end; `ended` tells when it has."""

    def abandon(self) -> None:
        """Let go of it: it ends by itself, now that nobody holds its standard input."""


class Fleet:
    """The places of one run.

    Args:
        say: prints a line for the user.
        alone: whether nobody acts but these.
        now_s: the monotonic clock.
    """

    def __init__(
        self,
        places: Iterable[Place],
        say: Callable[[str], None],
        *,
        alone: bool = True,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._alone = alone
        self._places = {place.name: place for place in places}
        self._say, self._now_s = say, now_s
        self._head = ""
        self._running: set[str] = set()
        self._due_s: dict[str, float] = {}
        """Of those that are to be started again."""
        self._hopeless: dict[str, Ended] = {}
        self._started_s: dict[str, float] = {}
        self._policies: dict[str, RestartPolicy] = {}

    def start(self, head: str) -> None:
        """Start all of them; they join that head."""
        self._head = head
        self._hopeless.clear()
        for name in self._places:
            self._start(name)

    def add(self, place: Place) -> None:
        """One more, from now on."""
        self._places[place.name] = place
        self._start(place.name)

    def drop(self, name: str) -> None:
        """One less, from now on."""
        place = self._places.pop(name)
        if name in self._running:
            place.ask_to_stop()
        place.abandon()
        self._running.discard(name)
        self._due_s.pop(name, None)
        self._hopeless.pop(name, None)
        self._policies.pop(name, None)

    def poll(self) -> None:
        """See who ended; start again who is due.

        Raises RoleFailed, in the words of one of them, when all that act, or a vital one, failed in
        a way that would be the same again.
        """
        now_s = self._now_s()
        for name in sorted(self._running):
            ended = self._places[name].ended()
            if ended is not None:
                self._running.discard(name)
                self._judge(name, ended, now_s)
        for name in [name for name, due_s in self._due_s.items() if due_s <= now_s]:
            del self._due_s[name]
            self._start(name)

    def stop(self) -> None:
        """Ask all of them to end and see that they do."""
        for name in self._running:
            self._places[name].ask_to_stop()
        deadline_s = self._now_s() + STOP_S
        while self._running and self._now_s() < deadline_s:
            self._running = {n for n in self._running if self._places[n].ended() is None}
            time.sleep(STOP_POLL_S if self._running else 0.0)
        for name in sorted(self._running):
            self._say(f"{name}: not ended {STOP_S:.0f} s after it was asked to: left alone")
        for place in self._places.values():
            place.abandon()
        self._running.clear()
        self._due_s.clear()

    def _start(self, name: str) -> None:
        self._started_s[name] = self._now_s()
        self._places[name].start(self._head)
        self._running.add(name)

    def _judge(self, name: str, ended: Ended, now_s: float) -> None:
        if ended.exit_code == 0:
            # Somebody there ended it, or the head did: both mean it.
            log.info("%s: ended", name)
            return
        if ended.exit_code in HOPELESS:
            self._hopeless[name] = ended
            place = self._places[name]
            left = [n for n, p in self._places.items() if p.acts and n not in self._hopeless]
            nobody_left = self._alone and place.acts and not left
            if nobody_left or place.vital:
                raise role_failed(ended.exit_code, f"{name}: {ended.words}")
            self._say(f"{name}: {ended.words}: the run goes on without it")
            return
        # Whether it worked is not known here: it is taken to have done so for as long as it lasted.
        lasted_s = now_s - self._started_s[name]
        policy = self._policies.setdefault(name, RestartPolicy(PATIENCE))
        verdict = policy.decide(Ending("place", ended.exit_code, bool(ended.words), lasted_s))
        self._due_s[name] = now_s + (verdict.backoff_s or 0.0)
        log.warning("%s: %s (exit code %d)", name, ended.words, ended.exit_code)
        if verdict.attempt == 1:
            self._say(
                f"{name}: {ended.words}: trying again, every {PATIENCE.last_backoff_s:.0f} s at "
                "last; the run goes on meanwhile"
            )
