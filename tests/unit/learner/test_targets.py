"""What Prometheus's discovery finds of a run, as its `file_sd_configs` reads it."""

import json
from pathlib import Path
from typing import Any

import pytest

from learner.members import Member
from learner.targets import LINKS, TARGETS_FILE, Targets


def member(role: str, number: int, endpoint: str) -> Member:
    return Member(number, role, number, "host-a", "", 1, 1, b"", 0, 0, 0.0, endpoint)


def found(runs: Path) -> list[dict[str, Any]]:
    """Over the links of all runs, whose name is all that a pattern may leave open."""
    groups: list[dict[str, Any]] = []
    for path in sorted((runs / LINKS).glob("*.json")):
        groups += json.loads(path.read_text())
    return groups


def group(role: str, number: str, endpoint: str, run: str = "r1") -> dict[str, Any]:
    labels = {"job": "zapex", "run": run, "role": role, "number": number}
    return {"targets": [endpoint], "labels": labels}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir()
    return made


def test_processes_that_can_be_scraped_are_named_as_they_come_and_go(run_dir: Path) -> None:
    targets = Targets(run_dir, "r1", "127.0.0.1:9100")
    learner = group("learner", "0", "127.0.0.1:9100")
    targets.tell([])
    assert found(run_dir.parent) == [learner]
    targets.tell([member("actor", 3, "127.0.0.1:9103"), member("actor", 4, "")])
    assert found(run_dir.parent) == [learner, group("actor", "3", "127.0.0.1:9103")]
    targets.tell([])
    assert found(run_dir.parent) == [learner]


def test_what_has_not_changed_is_not_written_again(run_dir: Path) -> None:
    targets, actor = Targets(run_dir, "r1", ""), member("actor", 3, "127.0.0.1:9103")
    targets.tell([actor])
    (run_dir / TARGETS_FILE).unlink()
    targets.tell([actor])
    assert not (run_dir / TARGETS_FILE).exists()


def test_several_runs_lie_beside_each_other_and_move_together(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        (runs / name).mkdir(parents=True)
        Targets(runs / name, name, f"{name}:1").tell([])
    expected = [group("learner", "0", f"{name}:1", name) for name in ("a", "b")]
    assert found(runs) == expected
    # As for Prometheus in a container, which has them mounted at another place.
    assert found(runs.rename(tmp_path / "elsewhere")) == expected


def test_a_run_that_nobody_can_scrape_leaves_no_file(run_dir: Path) -> None:
    Targets(run_dir, "r1", "").tell([member("actor", 0, "")])
    assert list(run_dir.parent.iterdir()) == [run_dir]
    assert list(run_dir.iterdir()) == []


def test_a_run_that_ends_is_no_longer_looked_for(run_dir: Path) -> None:
    targets = Targets(run_dir, "r1", "127.0.0.1:9100")
    targets.tell([])
    targets.withdraw()
    assert found(run_dir.parent) == []
    assert not (run_dir / TARGETS_FILE).exists()
    targets.withdraw()


def test_a_restarted_learner_takes_the_place_of_the_one_that_was_killed(run_dir: Path) -> None:
    Targets(run_dir, "r1", "127.0.0.1:9100").tell([])
    Targets(run_dir, "r1", "127.0.0.1:9200").tell([])
    assert found(run_dir.parent) == [group("learner", "0", "127.0.0.1:9200")]


def test_where_no_link_can_be_made_the_run_has_its_file(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run_dir.parent / LINKS).write_text("in the way")
    Targets(run_dir, "r1", "127.0.0.1:9100").tell([])
    assert json.loads((run_dir / TARGETS_FILE).read_text())
    assert "Prometheus does not find all processes of this run" in caplog.text


def test_a_run_directory_that_takes_nothing_more_does_not_end_the_run(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir.rmdir()
    targets = Targets(run_dir, "r1", "127.0.0.1:9100")
    targets.tell([])
    targets.withdraw()
    assert "Prometheus does not find all processes of this run" in caplog.text
