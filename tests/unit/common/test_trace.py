"""Which phases of a loop are recorded, and where they go."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from common import trace
from common.trace import BEGAN, ENDED, NO_TRACE, Recording, trace_to

Spans = list[tuple[str, int, int]]


class Clock:
    now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(trace, "time", SimpleNamespace(monotonic_ns=clock.monotonic_ns))
    monkeypatch.setattr(trace, "SKIPPED", 2)
    monkeypatch.setattr(trace, "ITERATIONS", 2)
    monkeypatch.setattr(trace, "LOOK_PERIOD_NS", 10)
    return clock


def written(directory: Path, track: str) -> Spans:
    found = json.loads((directory / f"{track}.json").read_text())
    assert found["track"] == track
    return [(found["names"][name], begin, end) for name, begin, end in found["spans"]]


@pytest.fixture
def at(clock: Clock) -> Callable[[Recording, int, str], None]:
    def at(recording: Recording, now_ns: int, phase: str) -> None:
        clock.now_ns = now_ns
        recording.phase(phase)

    return at


At = Callable[[Recording, int, str], None]


def test_the_leader_records_its_own_iterations_after_those_it_skips(tmp_path: Path, at: At) -> None:
    learner = Recording(tmp_path, "learner", leads=True)
    for turn in range(6):
        at(learner, 100 * turn, "waiting")
        at(learner, 100 * turn + 30, "updating")
        learner.iteration()
        # The second update is the last that is skipped, the fourth the last that is recorded.
        assert (tmp_path / BEGAN).exists() == (turn >= 1)
        assert (tmp_path / ENDED).exists() == (turn >= 3)
    learner.close()
    assert written(tmp_path, "learner") == [
        ("updating", 130, 200),
        ("waiting", 200, 230),
        ("updating", 230, 300),
        ("waiting", 300, 330),
    ]


def test_the_others_record_from_the_leaders_begin_to_its_end(tmp_path: Path, at: At) -> None:
    actor = Recording(tmp_path, "actor-0")
    at(actor, 0, "inference")
    at(actor, 20, "environment")
    (tmp_path / BEGAN).touch()
    at(actor, 25, "inference")  # Nobody looked since 20.
    at(actor, 30, "environment")  # Looks: from here on.
    at(actor, 47, "inference")
    at(actor, 60, "environment")
    (tmp_path / ENDED).touch()
    assert not (tmp_path / "actor-0.json").exists()
    at(actor, 75, "inference")
    at(actor, 90, "environment")
    actor.close()
    assert written(tmp_path, "actor-0") == [
        ("environment", 30, 47),
        ("inference", 47, 60),
        ("environment", 60, 75),
    ]


def test_a_loop_that_ends_while_it_records_leaves_what_it_has(tmp_path: Path, at: At) -> None:
    learner = Recording(tmp_path, "learner", leads=True)
    learner.iteration()
    learner.close()
    assert list(tmp_path.iterdir()) == []  # Nothing had begun.

    learner = Recording(tmp_path, "learner", leads=True)
    at(learner, 5, "updating")
    learner.iteration()
    learner.iteration()
    at(learner, 9, "waiting")
    learner.close()
    assert written(tmp_path, "learner") == [("updating", 5, 9)]
    assert (tmp_path / ENDED).exists()


def test_a_loop_that_turns_without_end_stops_by_itself(
    tmp_path: Path, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "MAX_SPANS", 3)
    (tmp_path / BEGAN).touch()
    server = Recording(tmp_path, "replay_server")
    for now_ns in range(0, 1_000, 10):
        at(server, now_ns, f"phase {now_ns % 20}")
    assert len(written(tmp_path, "replay_server")) == 3


def test_a_directory_that_is_gone_ends_no_loop(
    tmp_path: Path, at: At, caplog: pytest.LogCaptureFixture
) -> None:
    learner = Recording(tmp_path / "gone", "learner", leads=True)
    for now_ns in range(4):
        at(learner, now_ns, "updating")
        learner.iteration()
    learner.close()
    assert "cannot write" in caplog.text


def test_nothing_is_written_where_nobody_asked(tmp_path: Path) -> None:
    nowhere = trace_to(None, "actor-0")
    assert nowhere is NO_TRACE
    nowhere.phase("environment")
    nowhere.iteration()
    nowhere.close()
    assert isinstance(trace_to(tmp_path, "actor-0"), Recording)
    assert list(tmp_path.iterdir()) == []
