"""Roles that crash are started again, as the rule of `common/restarts.py` says, and the user is
told what happened."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from common import children
from common.call_cells import FIRST_SEED, SINCE_S, STEP, Call, begin, cells_in
from common.children import FAILED, READY
from common.config import Config
from common.errors import RoleFailed, ZapexError
from common.restarts import MAX_FAILURES, MemoryWatch, Patience
from deploy import launcher
from deploy.launcher import Supervisor
from deploy.topology import RoleSpec
from tests.waiting import wait_until

ADDRESS = "tcp://127.0.0.1:7"


def scripted_child(spec: RoleSpec, pipe: Connection, cells: Any, log_level: str) -> None:
    """In place of a role: does what its line of the file `script` says. Its starts are counted in
    `starts`; the last line holds for all later ones."""
    # Whatever the process it is forked from ignores.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    starts = spec.run_dir / "starts"
    number = len(starts.read_text().splitlines())
    with starts.open("a") as file:
        file.write(f"bind={spec.bind} head={spec.head} resume={spec.resume}\n")
    script = (spec.run_dir / "script").read_text().splitlines()
    for word in script[min(number, len(script) - 1)].split():
        what, _, value = word.partition("=")
        if what == "ready":
            pipe.send((READY, ADDRESS))
        elif what == "explain":
            pipe.send((FAILED, f"the {value} is missing"))
        elif what == "exit":
            sys.exit(int(value))
        elif what == "killed":
            os.kill(os.getpid(), int(value))
        elif what == "steps":
            # As for so many seconds.
            row = cells_in(cells)
            row[STEP], row[FIRST_SEED] = 7, 10
            begin(row, Call.STEP, 2)
            row[SINCE_S] -= float(value)
        elif what == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif what == "slow":
            # It is asked to stop now and then, and does when it has been asked so often.
            requests = iter([False, False, True])
            signal.signal(signal.SIGTERM, lambda *_, r=requests: sys.exit() if next(r) else None)
        elif what == "listen":
            asked = threading.Event()
            signal.signal(signal.SIGTERM, lambda *_, asked=asked: asked.set())
        elif what == "asked":
            asked.wait()
        elif what == "stay":
            threading.Event().wait()


class Stage:
    """A supervisor whose children follow a script."""

    def __init__(self, run_dir: Path) -> None:
        self.said: list[str] = []
        self.stopping: Callable[[], bool] = lambda: False
        self.supervisor = Supervisor(
            "info", self.said.append, lambda: self.stopping(), Patience(0.1, 0.3)
        )
        self._run_dir = run_dir

    def start(self, *script: str, role: str = "actor") -> None:
        (self._run_dir / "script").write_text("\n".join(script))
        (self._run_dir / "starts").touch()
        self.supervisor.start(RoleSpec(role, role, Config(), self._run_dir, "head"))

    def starts(self) -> list[str]:
        return (self._run_dir / "starts").read_text().splitlines()

    def ready(self, role: str = "actor") -> str | None:
        return self.supervisor.wait_ready(role)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        def turn() -> bool:
            self.supervisor.poll(0.05)
            return condition()

        wait_until(turn, what)

    def failure(self) -> ZapexError:
        """What it gives up with."""
        with pytest.raises(RoleFailed) as caught:
            self.until(lambda: False, "it gives up")
        return caught.value


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(launcher, "child_main", scripted_child)
    stage = Stage(tmp_path)
    yield stage
    stage.supervisor.stop()


def test_a_role_that_crashes_is_started_again_where_it_listened(stage: Stage) -> None:
    stage.start("ready killed=11", "exit=70", "ready stay")
    stage.until(lambda: len(stage.starts()) == 3, "it was started again, twice")
    assert stage.ready() == ADDRESS
    assert stage.starts() == [
        "bind= head=head resume=False",
        f"bind={ADDRESS} head=head resume=False",
        f"bind={ADDRESS} head=head resume=False",
    ]
    assert stage.said == [
        "actor was killed by signal 11: restarting in 0.1 s (1 of 5)",
        "actor ended with exit code 70: restarting in 0.2 s (2 of 5)",
    ]


def test_a_learner_that_crashes_goes_on_from_its_checkpoint(stage: Stage) -> None:
    stage.start("ready killed=9", "ready stay", role="learner")
    stage.until(lambda: len(stage.starts()) == 2, "it was started again")
    assert stage.starts()[1] == f"bind= head={ADDRESS} resume=True"


def test_it_gives_up_after_so_many_restarts_in_the_roles_own_words(stage: Stage) -> None:
    stage.start("ready explain=simulator exit=4")
    failure = stage.failure()
    assert str(failure) == "actor: the simulator is missing (5 restarts did not help)"
    assert failure.exit_code == 4
    assert len(stage.starts()) == 1 + MAX_FAILURES
    patience = [line.split(" restarting in ")[1] for line in stage.said]
    assert patience == [
        "0.1 s (1 of 5)", "0.2 s (2 of 5)", "0.3 s (3 of 5)", "0.3 s (4 of 5)", "0.3 s (5 of 5)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("role", "script", "exit_code"),
    [
        # What a restart cannot mend: configuration, environment, checkpoint.
        ("actor", "explain=simulator exit=2", 2),
        ("actor", "explain=simulator exit=4", 4),
        ("replay_server", "explain=simulator exit=7", 7),
        # A learner that says why it ended would say so again.
        ("learner", "ready explain=simulator exit=8", 8),
        ("learner", "explain=simulator exit=70", 70),
    ],
)
def test_what_is_hopeless_is_not_tried_again(
    stage: Stage, role: str, script: str, exit_code: int
) -> None:
    stage.start(script, role=role)
    failure = stage.failure()
    assert (str(failure), failure.exit_code) == (f"{role}: the simulator is missing", exit_code)
    assert len(stage.starts()) == 1
    assert stage.said == []


PLACE = "(environment 2, seed 12, step 7)"
LOCKED = "holding Python's lock: no return"
CRASHED = "restarting in 0.1 s (1 of 5)"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        # Of one that was killed from outside nothing is held against it.
        ("ready killed=9", "actor was killed by signal 9: restarting in 0.1 s"),
        (
            "ready steps=0 killed=11",
            f"actor was killed by signal 11: {CRASHED}; it was in step of CartPole-v1 {PLACE}",
        ),
        # An environment that ends its process as if all were well.
        (
            "ready steps=0 exit=0",
            f"actor ended with exit code 0: {CRASHED}; it was in step of CartPole-v1 {PLACE}",
        ),
        # faulthandler's exit code, and 61 s in a call that may last 60.
        (
            "ready steps=61 exit=1",
            f"actor CartPole-v1 hangs in step, {LOCKED} within 61 s {PLACE}: {CRASHED}",
        ),
        # What a role says itself needs no addition.
        (
            "ready steps=0 explain=simulator exit=4",
            f"actor the simulator is missing: {CRASHED}",
        ),
    ],
)
def test_the_line_says_what_happened_and_in_which_environment(
    stage: Stage, script: str, said: str
) -> None:
    stage.start(script, "ready stay")
    stage.until(lambda: len(stage.starts()) == 2, "it was started again")
    assert stage.said == [said]


def test_a_lock_that_is_never_given_up_is_an_environments_fault(stage: Stage) -> None:
    stage.start("ready steps=61 exit=1")
    failure = stage.failure()
    assert failure.exit_code == 4
    assert str(failure).startswith("actor: CartPole-v1 hangs in step, holding Python's lock")
    assert str(failure).endswith("(5 restarts did not help)")


def test_a_host_without_memory_is_named(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryWatch, "ran_out", lambda _: True)
    stage.start("ready killed=9")
    failure = stage.failure()
    assert str(failure) == (
        "actor: was killed by signal 9 when its host had run out of memory "
        "(5 restarts did not help)"
    )


def test_a_role_that_ends_well_is_let_go(stage: Stage) -> None:
    stage.start("ready exit=0")
    stage.until(lambda: not stage.supervisor.children, "its end")
    assert stage.said == []
    assert not stage.supervisor.restarting("actor")


def test_a_role_that_ends_before_it_is_ready_is_not_waited_for(stage: Stage) -> None:
    stage.start("exit=0")
    with pytest.raises(RoleFailed, match="actor ended before it was ready"):
        stage.ready()


def test_waiting_ends_when_somebody_says_stop(stage: Stage) -> None:
    stage.start("stay")
    answers = [True, False]
    stage.stopping = answers.pop
    assert stage.ready() is None


def test_whoever_does_not_stop_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "STOP_S", 0.2)
    stage.start("deaf ready stay")
    stage.ready()
    stage.supervisor.stop()
    assert stage.said == ["actor did not stop within 0 s: killed"]
    assert not stage.supervisor.children


def test_a_learner_has_its_own_time_for_its_checkpoint(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "STOP_S", 0.0)
    monkeypatch.setattr(launcher, "STOP_LIMITS_S", {"learner": 60.0})
    stage.start("slow ready stay", role="learner")
    stage.ready("learner")
    stage.supervisor.stop()
    assert stage.said == []
    assert not stage.supervisor.children


def test_a_learner_that_takes_even_longer_is_killed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "STOP_LIMITS_S", {"learner": 0.0})
    stage.start("deaf ready stay", role="learner")
    stage.ready("learner")
    stage.supervisor.stop()
    assert stage.said == ["learner did not stop within 0 s: killed"]


def test_who_is_in_a_hurry_waits_for_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "STOP_LIMITS_S", {"learner": 3_600.0})
    stage.start("deaf ready stay", role="learner")
    stage.ready("learner")
    answers = iter([False, True])
    stage.supervisor.stop(lambda: next(answers))
    assert stage.said == ["learner had not stopped yet: killed"]
    assert not stage.supervisor.children


def test_whoever_does_not_stop_is_killed_even_if_nobody_can_be_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(line: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(children, "STOP_S", 0.2)
    stage.start("deaf ready stay")
    stage.ready()
    (child,) = stage.supervisor.children.values()
    stage.supervisor._children.say = say
    try:
        with pytest.raises(BrokenPipeError):
            stage.supervisor.stop()
        wait_until(lambda: not child.process.is_alive(), "its end")
    finally:
        child.process.kill()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is killed because this machine is busy."""
    monkeypatch.setattr(children, "STOP_S", 60.0)


@pytest.mark.usefixtures("patience")
def test_who_fails_while_it_is_stopped_is_heard(stage: Stage) -> None:
    """A learner whose last checkpoint finds no room, say."""
    stage.start("listen ready asked explain=room exit=7", role="learner")
    assert stage.ready("learner") == ADDRESS
    stage.supervisor.stop()
    assert stage.said == ["learner: the room is missing"]


@pytest.mark.usefixtures("patience")
def test_whoever_stops_is_not_killed(stage: Stage) -> None:
    stage.start("ready stay")
    stage.ready()
    stage.supervisor.stop()
    assert stage.said == []
    assert not stage.supervisor.children
