"""Environments that hang, each in a process that is to end with them, within seconds."""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from common import deadlines
from common.call_cells import (
    CELLS,
    SINCE_S,
    STEP,
    Call,
    Cells,
    begin,
    call_in,
    cells_in,
    end,
    place_in,
    share_cells,
)
from common.config import Config
from common.deadlines import Deadlines
from common.environments import make_vector
from common.process import configure_logging, hear_last_words
from common.watched_vector import Watch
from tests.faulty import FAULTY
from tests.waiting import wait_until

LIMIT_S = 1.5
LONG_S = 60.0
"""No call of these tests lasts so long."""
SEED = 10
FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:gymnasium")


@dataclass
class Role:
    """A process that plays two environments until something ends it."""

    process: BaseProcess
    words: Connection
    """What it says: its environments' processes, its goodbye to the head, its last words."""
    cells: Cells
    log: Path

    def hear(self) -> Any:
        assert self.words.poll(LONG_S)
        return self.words.recv()

    def end(self) -> int | None:
        self.process.join(LONG_S)
        return self.process.exitcode


Play = Callable[..., Role]


def _play(config: Config, words: Connection, memory: Any, log: Path, in_thread: bool) -> None:
    share_cells(cells_in(memory))
    hear_last_words(lambda error: words.send(str(error)))
    sys.stderr = log.open("w", buffering=1)
    faulthandler.enable()
    configure_logging("info")

    def body() -> None:
        with Deadlines(config, lambda reason: words.send(f"goodbye: {reason}")):
            vector = make_vector(config, 2, first_env_index=4)
            words.send([child.pid for child in psutil.Process().children()])
            vector.reset(seed=SEED)
            for _ in range(5):
                vector.step(np.zeros(2, np.int64))
            vector.close()

    if in_thread:
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
    else:
        body()


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    monkeypatch.setattr(deadlines, "MIN_LOCKED_S", 0.5)
    started: list[BaseProcess] = []

    def play(
        fault: str, *, in_thread: bool = False, worker: int | None = None, **changes: Any
    ) -> Role:
        seeds = None if fault.startswith("make") else [SEED + 1]
        kwargs = {"fault": fault, "after": 2, "seeds": seeds, "worker": worker}
        limits = {"env_step_timeout": LIMIT_S, "env_make_timeout": LONG_S}
        config = Config(**{"env": FAULTY, "env_kwargs": kwargs, **limits, **changes})
        ours, theirs = FORK.Pipe(duplex=False)
        memory, log = FORK.RawArray("d", CELLS), tmp_path / f"{len(started)}.log"
        process = FORK.Process(target=_play, args=(config, theirs, memory, log, in_thread))
        process.start()
        theirs.close()
        started.append(process)
        return Role(process, ours, cells_in(memory), log)

    yield play
    for process in started:
        process.kill()


PLACE = "(environment 1, 5 on the ladder, seed 11, step 3)"


def test_a_call_that_does_not_return_ends_the_process_in_one_line(play: Play) -> None:
    expected = {
        "reset sleeps": (
            "hangs in reset: no return within env_step_timeout = 1.5 s (environment 1, 5 on the "
            "ladder, seed 11, step 0)"
        ),
        "step sleeps": f"hangs in step: no return within env_step_timeout = 1.5 s {PLACE}",
        "step waits": f"hangs in step: no return within env_step_timeout = 1.5 s {PLACE}",
        "close sleeps": (
            "hangs in close: no return within env_step_timeout = 1.5 s (environment 1, 5 on the "
            "ladder, seed 11, step 5)"
        ),
    }
    roles = {fault: play(fault) for fault in expected}
    roles["make sleeps"] = play("make sleeps", env_make_timeout=LIMIT_S)
    expected["make sleeps"] = (
        "hangs in make: no return within env_make_timeout = 1.5 s (environment 0, 4 on the ladder, "
        "step 0)"
    )
    for fault, what in expected.items():
        role = roles[fault]
        if not fault.startswith("make"):
            assert role.hear() == []
        assert role.hear() == f"goodbye: {FAULTY} {what}"
        assert role.hear() == f"{FAULTY} {what}"
        assert role.end() == 4
        # The log says in which line of whose code.
        assert "faulty.py" in role.log.read_text()


def test_environments_in_their_own_processes_end_with_it(play: Play) -> None:
    made = play("step sleeps", vectorization="async")
    making = play("make sleeps", vectorization="async", worker=1, env_make_timeout=LIMIT_S)
    workers = list(map(psutil.Process, made.hear()))
    assert len(workers) == 2
    what = f"{FAULTY} hangs in step: no return within env_step_timeout = 1.5 s {PLACE}"
    assert [made.hear(), made.hear(), made.end()] == [f"goodbye: {what}", what, 4]
    wait_until(lambda: not any(map(lives, workers)), "its environments are gone")
    what = (
        f"{FAULTY} hangs in make: no return within env_make_timeout = 1.5 s "
        "(environment 1, 5 on the ladder, step 0)"
    )
    assert [making.hear(), making.hear(), making.end()] == [f"goodbye: {what}", what, 4]


def test_a_process_that_is_killed_leaves_no_environment_that_hangs(play: Play) -> None:
    role = play("step sleeps", vectorization="async", env_step_timeout=LONG_S)
    workers = list(map(psutil.Process, role.hear()))
    role.process.kill()
    assert role.end() == -signal.SIGKILL
    wait_until(lambda: not any(map(lives, workers)), "its environments are gone")


def test_a_call_that_keeps_pythons_lock_ends_the_process_and_its_place_is_known(
    play: Play,
) -> None:
    role = play("step holds the lock", env_make_timeout=LIMIT_S)
    assert role.end() == 1
    assert call_in(role.cells) is Call.STEP
    place = place_in(role.cells)
    assert (place.index, place.seed, place.step) == (1, SEED + 1, 3)
    log = role.log.read_text()
    assert "Timeout (0:00:03)!" in log
    assert 'faulty.py", line' in log


def test_a_process_that_crashes_leaves_the_place_behind(play: Play) -> None:
    role = play("step crashes")
    assert role.end() == -signal.SIGSEGV
    assert call_in(role.cells) is Call.STEP
    assert place_in(role.cells).text() == "environment 1, seed 11, step 3"


def test_a_process_that_was_stopped_was_not_hanging_all_the_time(play: Play) -> None:
    role = play("step sleeps")
    assert role.hear() == []
    wait_until(lambda: role.cells[STEP] == 3 and call_in(role.cells) is Call.STEP, "it hangs")
    os.kill(role.process.pid or 0, signal.SIGSTOP)
    stopped_s = time.monotonic()
    assert not role.words.poll(LIMIT_S)  # What is waited for is that nothing comes.
    os.kill(role.process.pid or 0, signal.SIGCONT)
    continued_s = time.monotonic()
    assert role.hear().startswith("goodbye: ")
    ran_s = time.monotonic() - continued_s + stopped_s - role.cells[SINCE_S]
    # Two looks, of which there are ten in the limit, count at most for the time it was stopped.
    assert ran_s >= LIMIT_S * 0.8


def test_a_run_in_threads_only_says_so(play: Play) -> None:
    role = play("step sleeps", in_thread=True, env_step_timeout=0.2)
    assert role.hear() == []
    wait_until(lambda: "hangs in step" in role.log.read_text(), "it says so")
    assert not role.words.poll(0.5)
    assert role.log.read_text().count("hangs in step") == 1
    assert role.process.is_alive()


class Loop:
    """A thread whose environments are called when it is told to; what is said of it."""

    def __init__(self, **limits: Any) -> None:
        self.told = 0
        self._config = Config(**{"env_step_timeout": None, "env_make_timeout": 0.1, **limits})

    def _said(self, _: float) -> None:
        self.told += 1

    def run(self, body: Callable[[Watch], None], *, made_beside: bool = False) -> None:
        """`body` in a thread with deadlines, with a watch of that thread or of one beside it."""

        def loop() -> None:
            with Deadlines(self._config, busy=self._said):
                if made_beside:
                    beside = threading.Thread(target=lambda: body(Watch("film", 1, private=True)))
                    beside.start()
                    beside.join()
                else:
                    body(Watch("loop", 1, private=True))

        thread = threading.Thread(target=loop)
        thread.start()
        thread.join()

    def is_told(self, watch: Watch, call: Call) -> None:
        """Begin a call and wait until it is said that the loop is busy."""
        # First: this thread may be kept from looking until its call is late.
        before = self.told
        begin(watch.cells, call)
        wait_until(lambda: self.told > before, "it is said")

    def is_not_told(self) -> bool:
        """For some twenty looks; one may be under way."""
        before = self.told
        time.sleep(0.2)
        return self.told <= before + 1


@pytest.mark.parametrize("limit_s", [None, LONG_S])
def test_a_loop_is_said_to_be_busy_while_it_is_in_a_call(limit_s: float | None) -> None:
    loop = Loop(env_step_timeout=limit_s)

    def body(watch: Watch) -> None:
        for call in (Call.RESET, Call.STEP, Call.RENDER):
            loop.is_told(watch, call)
            end(watch.cells)
            assert loop.is_not_told()

    loop.run(body)


def test_nobody_says_so_beyond_the_deadline_or_for_another_threads_environments() -> None:
    late = Loop(env_step_timeout=0.1)

    def hang(watch: Watch) -> None:
        late.is_told(watch, Call.STEP)
        wait_until(late.is_not_told, "it is late")

    late.run(hang)
    beside = Loop()

    def film(watch: Watch) -> None:
        begin(watch.cells, Call.STEP)
        assert beside.is_not_told()

    beside.run(film, made_beside=True)
    assert beside.told == 0


def test_without_deadlines_nobody_watches(play: Play) -> None:
    def watchers() -> int:
        return sum(thread.name == "deadlines" for thread in threading.enumerate())

    with Deadlines(Config(env_step_timeout=None, env_make_timeout=None)):
        assert watchers() == 0
    with Deadlines(Config(env_step_timeout=None)):
        assert watchers() == 1
    assert watchers() == 0
