"""What the head's process shows of the run, and leaves behind."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zmq

from common import transport
from common.messages import Directive, Status, StatusRequest
from learner import control as control_module
from learner.head import Head, Reply
from learner.recorder import Record
from learner.report import Report
from learner.status import LearnerCounters, RunStatus
from learner.targets import TARGETS_FILE
from tests.head_with_peers import MANIFEST
from tests.open_head import open_head
from tests.waiting import wait_until


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        yield made


class Full:
    """A disk, for one record: how many are dropped does not depend on when somebody looks."""

    def __init__(self) -> None:
        self._errors = [OSError("no space left")]

    def write(self, record: Record) -> None:
        if self._errors:
            raise self._errors.pop()

    def close(self) -> None:
        """There is nothing to close."""


def test_the_head_shows_the_runs_own_metrics(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with open_head(context, "inproc://head", MANIFEST, sinks=[Full()]) as control:

        def shown() -> dict[str, float]:
            return control.head_telemetry.newest[0]

        wait_until(lambda: shown().get("head_dropped_records_total"), "the failed sink is counted")
        assert shown() == {
            "head_actors": 0,
            "head_lost_members_total": 0,
            "head_rejected_messages_total": 0,
            "head_refused_peers_total": 0,
            "head_dropped_records_total": 1,
        }


def test_whoever_asks_without_end_is_answered_now_and_then_and_others_are_as_well(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Report.status

    def long(report: Report) -> RunStatus:
        """Of a run of thousands."""
        time.sleep(0.02)
        return made(report)

    monkeypatch.setattr(Report, "status", long)
    with (
        open_head(context, "inproc://head", MANIFEST) as control,
        closing(context.socket(zmq.DEALER)) as curious,
        closing(context.socket(zmq.DEALER)) as other,
    ):
        for socket in (curious, other):
            socket.connect(control.endpoint)
        transport.send(curious, StatusRequest())
        answers = 0

        def other_is_answered() -> bool:
            nonlocal answers
            answers += isinstance(transport.receive(curious), Status)
            return isinstance(transport.receive(other), Status)

        wait_until(lambda: other_is_answered() or answers, "the first is answered")
        for _ in range(200):
            transport.send(curious, StatusRequest())
        transport.send(other, StatusRequest())
        wait_until(other_is_answered, "the other is answered")
        # One at a time they would be 200, and the other would have waited for all of them.
        assert answers < 20


@pytest.mark.parametrize("phase", ["done", "failed"])
def test_whoever_watched_until_the_end_is_told_how_it_ended(
    context: zmq.Context[zmq.Socket[bytes]], phase: str
) -> None:
    counters = LearnerCounters()
    heard: list[str] = []
    with closing(context.socket(zmq.DEALER)) as watching:

        def next_status() -> bool:
            message = transport.receive(watching)
            if isinstance(message, Status):
                heard.append(message.status["learner"]["phase"])
            return message is not None

        with open_head(context, "inproc://head", MANIFEST, counters=counters) as control:
            watching.connect(control.endpoint)
            transport.send(watching, StatusRequest())
            wait_until(next_status, "a status while the run goes on")
            counters.phase = phase
        wait_until(next_status, "the last status")
    assert heard == ["starting", phase]


def test_whoever_stopped_watching_long_ago_is_told_nothing_at_the_end(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "WATCHES_S", -1.0)  # Any time is long ago.
    with closing(context.socket(zmq.DEALER)) as left:
        with open_head(context, "inproc://head", MANIFEST) as control:
            left.connect(control.endpoint)
            transport.send(left, StatusRequest())
            wait_until(lambda: transport.receive(left) is not None, "a status")
        assert transport.receive(left) is None


def test_what_follows_from_a_members_silence_is_told_at_once(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Directive(101, "run", 8, "tcp://replay:7001")
    monkeypatch.setattr(Head, "tick", lambda head, now_s: [(b"a", told)])
    with (
        open_head(context, "inproc://head", MANIFEST) as control,
        closing(context.socket(zmq.DEALER)) as actor,
    ):
        actor.setsockopt(zmq.IDENTITY, b"a")
        actor.connect(control.endpoint)
        wait_until(lambda: transport.receive(actor) == told, "the actor is told")


def test_while_the_head_does_not_listen_nobody_falls_silent(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_s: list[float] = []

    def look(head: Head, now_s: float) -> list[Reply]:
        looked_s.append(now_s)
        return []

    monkeypatch.setattr(Head, "tick", look)
    monkeypatch.setattr(control_module, "RECORD_PERIOD_S", 0.0)
    monkeypatch.setattr(control_module, "MAX_LOOK_S", 0.0)  # However long, it is too long a look.
    with open_head(context, "inproc://head", MANIFEST):
        wait_until(lambda: len(looked_s) > 1, "the head has looked twice")
    assert set(looked_s) == {0.0}


@pytest.mark.parametrize(("phase", "stays"), [("done", False), ("failed", True)])
def test_a_run_that_failed_is_still_looked_for(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path, phase: str, stays: bool
) -> None:
    """Prometheus then misses its learner, and says so."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    counters = LearnerCounters()
    with open_head(
        context,
        "inproc://head",
        MANIFEST,
        counters=counters,
        run_dir=run_dir,
        metrics_endpoint="127.0.0.1:9100",
    ):
        wait_until((run_dir / TARGETS_FILE).exists, "the targets are there")
        counters.phase = phase
    assert (run_dir / TARGETS_FILE).exists() == stays
