"""What is known of a run: from its files, and from its head if it answers."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from common import transport
from common.messages import Status
from deploy.dashboard.catalogue import State
from deploy.dashboard.flows import Flows
from deploy.dashboard.observatory import Observatory, View
from tests.made_runs import make_finished_run
from tests.unit.deploy.dashboard.test_catalogue import RESULT, line, make_run
from tests.waiting import wait_until


class Head:
    """Answers every question about a run with the same status."""

    def __init__(self, run_id: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket, self.address = transport.bind(self._context, zmq.ROUTER, "tcp://127.0.0.1:0")
        self._run_id = run_id
        self.questions = 0

    def answer(self) -> None:
        while (frames := transport.receive_frames(self._socket)) is not None:
            self.questions += 1
            status = {"run_id": self._run_id, "learner": {"phase": "training"}, "members": []}
            transport.send(self._socket, Status(status), prefix=(bytes(frames[0]),))

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()


@pytest.fixture
def observatory(tmp_path: Path) -> Iterator[Observatory]:
    observatory = Observatory(tmp_path)
    yield observatory
    observatory.close()


@pytest.fixture
def heads() -> Iterator[list[Head]]:
    heads: list[Head] = []
    yield heads
    for head in heads:
        head.close()


def live_run(tmp_path: Path, head: str = "") -> Path:
    now_s = time.time()
    lines = [line(100 * max(i - 9, 0), float(i), replay_transitions=50.0 * i) for i in range(20)]
    run_dir = make_run(tmp_path / "live", lines=lines, written_s=now_s)
    if head:
        (run_dir / "head").write_text(head + "\n")
    return run_dir


def look(observatory: Observatory, name: str) -> View:
    (view,) = observatory.views([name])
    assert view is not None
    return view


def test_a_live_run_is_asked_and_its_answer_shown(
    tmp_path: Path, observatory: Observatory, heads: list[Head]
) -> None:
    heads.append(Head("live"))
    live_run(tmp_path, heads[0].address)

    def answered() -> bool:
        heads[0].answer()
        return look(observatory, "live").answered

    wait_until(answered, "the head's answer is shown")
    view = look(observatory, "live")
    assert view.status is not None
    assert view.status["learner"] == {"phase": "training"}
    # Of the newest 10 s: lines 9 to 19.
    assert view.flows.env_steps == 100.0
    assert view.newest["replay_transitions"] == 950.0


def test_the_answer_of_another_run_at_that_address_is_none(
    tmp_path: Path, observatory: Observatory, heads: list[Head]
) -> None:
    heads.append(Head("somebody-else"))
    live_run(tmp_path, heads[0].address)

    def asked_twice() -> bool:
        heads[0].answer()
        assert not look(observatory, "live").answered
        return heads[0].questions >= 2

    wait_until(asked_twice, "the first answer has been heard")


def test_a_run_that_was_renamed_is_known_by_what_it_left(
    tmp_path: Path, observatory: Observatory, heads: list[Head]
) -> None:
    heads.append(Head("before"))
    run_dir = live_run(tmp_path, heads[0].address)
    (run_dir / "status.json").write_text(json.dumps({"run_id": "before", "members": []}))

    def answered() -> bool:
        heads[0].answer()
        return look(observatory, "live").answered

    wait_until(answered, "the head's answer is shown")


@pytest.mark.parametrize("head", ["", "nonsense", "tcp://127.0.0.1:1"])
def test_without_a_head_that_answers_the_files_tell(
    tmp_path: Path, observatory: Observatory, head: str
) -> None:
    run_dir = live_run(tmp_path, head)
    status = {"run_id": "live", "members": [{"role": "actor"}]}
    (run_dir / "status.json").write_text(json.dumps(status))
    view = look(observatory, "live")
    assert view.run.state is State.RUNNING
    assert not view.answered
    assert view.status == status
    assert view.flows.env_steps == 100.0


def test_a_finished_run_shows_means_over_all_of_it(
    tmp_path: Path, observatory: Observatory
) -> None:
    lines = [
        line(0, 0.0, learner_waited_seconds_total=0.0, replay_transitions=7.0),
        line(100, 1.0, learner_waited_seconds_total=1.0),
        line(100, 4.0, learner_waited_seconds_total=1.0),
    ]
    run_dir = make_run(tmp_path / "done", lines=lines, result=RESULT)
    (run_dir / "status.json").write_text("{half")
    view = look(observatory, "done")
    assert view.flows.env_steps == 25.0  # 100 / 4
    # The replay server left before the last line.
    assert view.newest["replay_transitions"] == 7.0
    assert view.flows.learner_waits == 0.25
    assert view.status is None
    assert view.config is not None
    assert view.notes == ()


def test_a_finished_runs_actors_have_left_before_its_last_line(
    tmp_path: Path, observatory: Observatory
) -> None:
    make_finished_run(tmp_path / "done", 0, seconds=90)
    view = look(observatory, "done")
    assert view.newest["head_actors"] == 0.0
    # 0.6 s of two actors in each second.
    assert view.flows.actors_wait == pytest.approx(0.3, abs=0.01)


def resumed_run(tmp_path: Path, seconds: int, **options: Any) -> Path:
    """A million steps, then the head was started again: its members come back one after another,
    each with all that it has counted."""
    lines = [line(0, 0.0, learner_waited_seconds_total=0.0),
             line(1_000_000, 100.0, learner_waited_seconds_total=50.0)]  # fmt: skip
    for i in range(seconds + 1):
        actors = min(2 * i, 8)
        of_members = {
            "replay_inserted_transitions_total": 1_000_000.0 + 250.0 * i,
            "replay_sampled_transitions_total": 8_000_000.0 + 2_000.0 * i,
            "replay_priorities_total": 7_000_000.0 + 2_000.0 * i,
            "actor_blocked_seconds_total": actors * (500.0 + 0.2 * i),
        }
        lines.append(
            line(
                1_000_000 + 250 * i, 101.0 + i, learner_waited_seconds_total=0.05 * i,
                head_actors=float(actors), **(of_members if i else {}),
            )
        )  # fmt: skip
    return make_run(tmp_path / "resumed", lines=lines, **options)


@pytest.mark.parametrize("live", [False, True])
def test_of_a_resumed_run_only_what_it_did_since_counts(
    tmp_path: Path, observatory: Observatory, live: bool
) -> None:
    if live:
        resumed_run(tmp_path, 12, written_s=time.time())
    else:
        resumed_run(tmp_path, 120, result=RESULT)
    view = look(observatory, "resumed")
    assert (view.run.state is State.RUNNING) == live
    assert view.flows == Flows(
        env_steps=250.0,
        inserts=250.0,
        samples=2_000.0,
        priorities=2_000.0,
        actors_wait=pytest.approx(0.2),
        learner_waits=pytest.approx(0.05),
    )


@pytest.mark.parametrize(
    ("files", "note"),
    [
        ({"config": 'env = "A"\nfrobnicate = 1\n'}, "its configuration is of another version"),
        ({"lines": '{"env_steps": 1, "wall_s": 1.0}\n7\n'}, "1 lines of metrics.jsonl cannot"),
        ({"lines": None}, "no metrics.jsonl"),
        ({"config": "env = ["}, "config.toml cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_and_the_rest_is_there(
    tmp_path: Path, observatory: Observatory, files: dict[str, Any], note: str
) -> None:
    make_run(tmp_path / "a", **{"lines": [line(1, 1.0)], "result": RESULT, **files})
    view = look(observatory, "a")
    assert any(told.startswith(note) for told in view.notes)
    assert view.run.score == 123.0


def test_the_newest_video_is_the_one(tmp_path: Path, observatory: Observatory) -> None:
    run_dir = live_run(tmp_path)
    assert look(observatory, "live").video is None
    assert observatory.video("live") is None
    (run_dir / "videos").mkdir()
    for name, changed_s in (("b.mp4", 200), ("a.mp4", 300), ("c.mp4", 100), ("z.txt", 900)):
        (run_dir / "videos" / name).write_text("")
        os.utime(run_dir / "videos" / name, (changed_s, changed_s))
    assert look(observatory, "live").video == run_dir / "videos" / "a.mp4"
    assert observatory.video("live") == run_dir / "videos" / "a.mp4"
    assert observatory.video("../live") is None


def test_a_run_that_is_not_there_is_no_view(observatory: Observatory) -> None:
    assert observatory.views(["nobody"]) == [None]
