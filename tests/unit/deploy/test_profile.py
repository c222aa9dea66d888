"""What the loops of a run recorded, as one picture."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.config import Config
from common.trace import BEGAN, ENDED
from deploy.profile import Profile, Track, events, recording
from deploy.topology import ROLES

LEARNER = Track("learner", [("updating", 1_000, 4_000), ("waiting", 4_000, 5_000)])
PREFETCH = Track("learner-prefetch", [("waiting", 1_500, 4_500)])
ACTOR = Track("actor-0", [("environment", 2_000, 6_000)])


def write(directory: Path, track: Track) -> None:
    names = sorted({name for name, _, _ in track.spans})
    spans = [(names.index(name), begin, end) for name, begin, end in track.spans]
    path = directory / f"{track.name}.json"
    path.write_text(json.dumps({"track": track.name, "names": names, "spans": spans}))


def test_each_loop_is_a_thread_of_its_process_and_time_begins_with_the_first_span() -> None:
    found = list(events([ACTOR, LEARNER, PREFETCH, Track("actor-1", [])]))
    names = [e["args"]["name"] for e in found if e["name"] == "process_name"]
    assert names == ["actor-0", "learner", "learner"]
    spans: list[dict[str, Any]] = [e for e in found if e["ph"] == "X"]
    # ns to µs; the learner's first span begins at 1,000 ns: that is 0.
    assert [(e["name"], e["ts"], e["dur"], e["pid"], e["tid"]) for e in spans] == [
        ("environment", 1.0, 4.0, 1, 1),
        ("updating", 0.0, 3.0, 2, 2),
        ("waiting", 3.0, 1.0, 2, 2),
        ("waiting", 0.5, 3.0, 2, 3),
    ]


def test_shares_are_of_the_recorded_time_largest_first() -> None:
    track = Track("a", [("x", 0, 10), ("y", 10, 70), ("x", 70, 100)])
    assert list(track.shares().items()) == [("y", 0.6), ("x", 0.4)]
    assert Track("a", []).shares() == {}


def test_the_picture_is_made_once_and_when_all_loops_are_through(tmp_path: Path) -> None:
    profile = Profile(tmp_path, tracks=3)
    assert profile.collect() == []
    (profile.directory / BEGAN).touch()
    for track in (LEARNER, PREFETCH):
        write(profile.directory, track)
    assert profile.collect() == []
    (profile.directory / ENDED).touch()
    assert profile.collect() == []
    write(profile.directory, ACTOR)
    lines = profile.collect()
    assert lines == [
        f"profile: {tmp_path / 'trace.json'} (open it at https://ui.perfetto.dev)",
        "  actor-0                environment 100%",
        "  learner                updating 75%, waiting 25%",
        "  learner-prefetch       waiting 100%",
    ]
    picture = json.loads((tmp_path / "trace.json").read_text())
    assert len([e for e in picture["traceEvents"] if e["ph"] == "X"]) == 4
    assert profile.collect() == profile.collect(at_the_end=True) == []


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ([], "no profile: the run ended before training was under way"),
        ([BEGAN], "no profile: the run ended before it was recorded"),
    ],
)
def test_a_run_that_is_too_short_says_so_at_its_end(
    tmp_path: Path, files: list[str], line: str
) -> None:
    profile = Profile(tmp_path, tracks=3)
    for name in files:
        (profile.directory / name).touch()
    assert profile.collect() == []
    assert profile.collect(at_the_end=True) == [line]


def test_at_the_end_those_that_are_there_make_the_picture(tmp_path: Path) -> None:
    profile = Profile(tmp_path, tracks=3)
    (profile.directory / ENDED).touch()
    write(profile.directory, LEARNER)
    first, only = profile.collect(at_the_end=True)
    assert first.startswith("profile: ")
    assert only.split() == ["learner", "updating", "75%,", "waiting", "25%"]


def test_what_an_earlier_part_of_the_run_recorded_goes(tmp_path: Path) -> None:
    old = Profile(tmp_path, tracks=1)
    (old.directory / ENDED).touch()
    write(old.directory, LEARNER)
    (old.directory / "somebody_elses").mkdir()
    assert old.collect() != []
    new = Profile(tmp_path, tracks=1)
    assert new.collect() == []
    assert not (tmp_path / "trace.json").exists()


@pytest.mark.parametrize(
    ("changes", "elsewhere", "actors_here", "expected"),
    [
        ({}, set(), 1, 3),
        ({"replay_servers": 2}, set(), 3, 6),
        ({"inference": "host"}, set(), 3, 6),
        # With --hosts: none of what is on another host is waited for.
        ({"inference": "host"}, {"inference"}, 0, 2),
        ({}, {"replay_server"}, 2, 3),
    ],
)
def test_processes_of_this_host_record(
    changes: dict[str, Any], elsewhere: set[str], actors_here: int, expected: int
) -> None:
    assert recording(Config(**changes), ROLES - elsewhere, actors_here) == expected
