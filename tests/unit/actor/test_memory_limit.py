"""An actor that grows too large is noticed, with what has grown."""

import mmap
import multiprocessing
import os

import psutil
import pytest

from actor.memory_limit import LOOK_PERIOD_S, MIB, MemoryLimit
from common.errors import ConfigError, MemoryLimitReached

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _only_our_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that other tests left below this one come and go."""
    children = psutil.Process.children
    left = {child.pid for child in children(psutil.Process(), recursive=True)}

    def ours(process: psutil.Process, recursive: bool = False) -> list[psutil.Process]:
        return [child for child in children(process, recursive) if child.pid not in left]

    monkeypatch.setattr(psutil.Process, "children", ours)


def own_mib() -> float:
    return float(psutil.Process().memory_info().rss / MIB)


def growth(mib: int) -> mmap.mmap:
    """Memory that this process did not have: the allocator may keep what other tests freed."""
    fresh, piece = mmap.mmap(-1, mib * MIB), os.urandom(MIB)
    for _ in range(mib):
        fresh.write(piece)
    return fresh


def test_without_a_limit_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = MemoryLimit(None, "Leaky-v0")
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: pytest.fail("it looked"))
    limit.check_start()
    assert not limit.is_reached(0.0)


def test_a_limit_below_what_an_actor_needs_is_refused_at_once() -> None:
    limit = MemoryLimit(1.0, "Leaky-v0")
    expected = "actor_memory_limit = 1 MiB, but an actor with Leaky-v0 takes .* from the start"
    with pytest.raises(ConfigError, match=expected):
        limit.check_start()


def test_growth_is_noticed_once_a_second() -> None:
    limit = MemoryLimit(own_mib() + 100, "Leaky-v0")
    limit.check_start()
    assert not limit.is_reached(10.0)
    hoard = growth(200)
    assert not limit.is_reached(10.0 + LOOK_PERIOD_S / 2)
    assert limit.is_reached(10.0 + LOOK_PERIOD_S)
    hoard.close()
    fault = limit.fault()
    assert isinstance(fault, MemoryLimitReached)
    assert str(fault).startswith("Leaky-v0 has grown to ")
    assert "in the actor's own process: actor_memory_limit = " in str(fault)


def test_the_environment_that_has_grown_in_its_own_process_is_named() -> None:
    limit = MemoryLimit(own_mib() + 50, "Leaky-v0")
    ours, theirs = FORK.Pipe()
    # More than its parent has: of that, a new process has mapped nearly nothing.
    more = int(own_mib()) + 100

    def hoard() -> None:
        kept = growth(more)
        theirs.send(len(kept))
        theirs.recv()

    # As Gymnasium names the process of its fourth environment.
    worker = FORK.Process(target=hoard, name="Worker<AsyncVectorEnv>-3")
    worker.start()
    assert ours.recv() == more * MIB
    assert limit.is_reached(10.0)
    assert " MiB) in environment 3: actor_memory_limit = " in str(limit.fault())
    ours.send("enough")
    worker.join()
