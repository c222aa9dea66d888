"""Where a head says that it is, and what it leaves behind."""

import json
from pathlib import Path

import pytest

from learner.announcement import STATUS_PERIOD_S, Announcement
from learner.status import LearnerCounters, RunStatus


def status(updates: int, *roles: str, phase: str = "training") -> RunStatus:
    return RunStatus(
        run_id="a",
        env="CartPole-v1",
        wall_s=1.0,
        total_env_steps=10,
        target_return=None,
        samples_per_insert=None,
        replay_capacity=10,
        replay_bytes=10,
        learner=LearnerCounters(phase=phase, updates=updates),
        train_return=None,
        episodes=0,
        members=[{"role": role} for role in roles],
        histograms={"replay_sampled_age": [1.0, 2.0]},
    )


def told_updates(run_dir: Path) -> int:
    told = json.loads((run_dir / "status.json").read_text())
    assert told["histograms"] == {"replay_sampled_age": [1.0, 2.0]}
    updates: int = told["learner"]["updates"]
    return updates


@pytest.mark.parametrize(
    ("endpoint", "line"),
    [
        ("tcp://127.0.0.1:5550", "tcp://127.0.0.1:5550\n"),
        ("tcp://0.0.0.0:5550", "tcp://box:5550\n"),
        ("ipc:///tmp/head", "ipc:///tmp/head\n"),
    ],
)
def test_the_head_s_address_is_there_while_the_head_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, line: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    announcement = Announcement(tmp_path)
    announcement.announce(endpoint)
    assert (tmp_path / "head").read_text() == line
    announcement.withdraw()
    announcement.withdraw()
    assert list(tmp_path.iterdir()) == []


def test_an_address_within_the_process_is_told_to_nobody(tmp_path: Path) -> None:
    announcement = Announcement(tmp_path)
    announcement.announce("inproc://head-1")
    announcement.withdraw()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_never_stood_leaves_the_status_of_its_last_part(tmp_path: Path) -> None:
    announcement = Announcement(tmp_path)
    for phase in ("starting", "failed"):
        announcement.tell(100.0, lambda phase=phase: status(0, "actor", phase=phase), due=True)  # type: ignore[misc]
    assert list(tmp_path.iterdir()) == []
    # One that fails later has something to say.
    for updates, phase in ((1, "waiting"), (2, "failed")):
        announcement.tell(
            100.0,
            lambda now=(updates, phase): status(now[0], "actor", phase=now[1]),  # type: ignore[misc]
            due=True,
        )
        assert told_updates(tmp_path) == updates


def test_the_status_is_left_now_and_then_and_when_it_is_due(tmp_path: Path) -> None:
    announcement = Announcement(tmp_path)
    announcement.tell(100.0, lambda: status(1))
    assert told_updates(tmp_path) == 1
    announcement.tell(100.0 + STATUS_PERIOD_S - 1, lambda: status(2))
    assert told_updates(tmp_path) == 1
    announcement.tell(100.0 + STATUS_PERIOD_S, lambda: status(3))
    assert told_updates(tmp_path) == 3
    announcement.tell(100.0 + STATUS_PERIOD_S, lambda: status(4), due=True)
    assert told_updates(tmp_path) == 4


def test_what_is_known_while_actors_are_there_stays_when_they_have_left(tmp_path: Path) -> None:
    announcement = Announcement(tmp_path)
    announcement.tell(0.0, lambda: status(1, "replay_server"))
    announcement.tell(100.0, lambda: status(2, "replay_server", "actor"))
    assert told_updates(tmp_path) == 2
    announcement.tell(200.0, lambda: status(3, "replay_server"), due=True)
    assert told_updates(tmp_path) == 2
    announcement.tell(300.0, lambda: status(4, "actor"))
    assert told_updates(tmp_path) == 4


def test_a_disk_that_takes_nothing_is_said_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    announcement = Announcement(tmp_path / "gone")
    announcement.announce("tcp://127.0.0.1:5550")
    announcement.tell(0.0, lambda: status(1))
    announcement.withdraw()
    assert [r.getMessage().rpartition(": ")[2] for r in caplog.records] == [
        "No such file or directory"
    ] * 2
