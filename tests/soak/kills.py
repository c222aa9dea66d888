"""Who is killed when, and how long it takes until the run has got over it."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.soak.audit import Audit
from tests.soak.ledger import ACKNOWLEDGED, Reader
from tests.soak.run import EVERYTHING, LAUNCHER, LIMIT_S, SoakRun, role_of
from tests.waiting import wait_until

TOGETHER = 0.25
"""Share of kills that hit a second process while the first is not back yet."""


class RunEnded(Exception):
    """The launcher has ended by itself."""


@dataclass(slots=True)
class Toll:
    """What was killed, and how long it took, in seconds, from the kill on, where nothing else was
    killed meanwhile."""

    kills: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By role; everything at once counts as one kill."""
    back_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """To the first update of a learner, of a launcher's or of everything's successor; to an actor's
    or evaluator's joining; to the first insert that a replay server acknowledges."""
    learner_times_s: list[float] = field(default_factory=list)
    """When a learner was killed, as time.time()."""


def schedule(names: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Each role as often as the others, in any order; actors take turns."""
    by_role: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_role[role_of(name)].append(name)
    for turn in range(1 << 30):
        roles = list(by_role)
        rng.shuffle(roles)
        for role in roles:
            yield by_role[role][turn % len(by_role[role])]


class Killer:
    """Kills, waits until the run has got over it, and has its promises audited."""

    def __init__(self, run: SoakRun, audit: Audit, rng: random.Random) -> None:
        self._run, self._audit, self._rng = run, audit, rng
        self._ledger = Reader(run.ledger)
        self.toll = Toll()

    def strike(self, name: str, pause: Callable[[float], None]) -> None:
        """Kill `name`, and now and then another one at some moment before it is back.

        Raises TimeoutError when the run does not get over it, RunEnded when it has ended.
        """
        self._ledger.new()
        killed = {name: self._kill(name)}
        others = [n for n in self._run.names if n != name]
        alone = name in (LAUNCHER, EVERYTHING) or self._rng.random() >= TOGETHER
        if not alone:
            pause(self._rng.uniform(0.0, 1.0))
            other = self._rng.choice(others)
            killed[other] = self._kill(other)
        for each in killed:
            back_s = wait_until(lambda e=each: self._back(e), f"{each} is back", LIMIT_S)
            if alone:
                self.toll.back_s[role_of(each)].append(back_s - killed[each])
        if name in (LAUNCHER, EVERYTHING):
            wait_until(lambda: not self._run.orphans(), "nothing is left of the last run", LIMIT_S)
        self._audit.look()

    def _kill(self, name: str) -> float:
        when_s = self._run.kill(name)
        self.toll.kills[role_of(name)] += 1
        if name in ("learner", LAUNCHER, EVERYTHING):
            self.toll.learner_times_s.append(when_s)
        return when_s

    def _back(self, name: str) -> float | None:
        if self._run.ended() is not None:
            raise RunEnded
        back_s = self._run.back(name)
        if name != "replay_server" or back_s is None:
            return back_s
        records = self._ledger.new()
        # What its predecessor acknowledged may be read later, but not after this one was there.
        accepted = records["time_s"][
            (records["what"] == ACKNOWLEDGED) & (records["time_s"] > back_s)
        ]
        return float(np.min(accepted)) if len(accepted) else None
