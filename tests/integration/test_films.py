"""Evaluations on film: an evaluator's scores come as if nobody filmed."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import actor.film_thread
from actor.acting_policy import Interrupted
from actor.evaluator import run_evaluator
from common.config import Config
from common.messages import EVALUATION
from tests.environments import EPISODES
from tests.integration.conftest import InProcess
from tests.integration.runs import TINY, result_of, until
from tests.integration.test_roles import Stage, constant_q, stage
from tests.scarcity import file_size_limit
from tests.videos import decoded

PAINTED = {"env": "tests.environments:Painted-v0", "video_period": 1}


def evaluated(s: Stage, version: int) -> None:
    """Put a version up, and wait for its score."""
    s.control.publish(EVALUATION, 0, version, constant_q(s.manifest, 1.0))
    (result,) = until(s.control.take_evaluations, f"the score of version {version}")
    assert result.version == version


def test_an_evaluator_films_what_it_evaluated(tmp_path: Path) -> None:
    with stage(**PAINTED) as s:
        s.run(run_evaluator, videos=tmp_path / "videos")
        for version in (5, 10):
            evaluated(s, version)
            path = tmp_path / "videos" / f"{version:08d}.mp4"
            until(path.exists, "the video")
            # Seeds 5 and 10 begin with episode 0.
            assert len(decoded(path).pictures) == EPISODES[0][0] + 1


@pytest.mark.parametrize(("changes", "videos"), [({"video_period": None}, "videos"), ({}, None)])
def test_without_a_period_or_a_directory_nothing_is_filmed(
    tmp_path: Path, changes: dict[str, Any], videos: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    filmed: list[Any] = []
    monkeypatch.setattr(actor.film_thread, "film_episode", lambda *args: filmed.append(args))
    with stage(**{**PAINTED, **changes}) as s:
        evaluator = s.run(run_evaluator, videos=tmp_path / videos if videos else None)
        evaluated(s, 1)
        evaluated(s, 2)
        evaluator.end()
    assert filmed == []


def test_a_long_film_keeps_no_score_waiting_and_ends_with_the_evaluator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = threading.Event()

    def endless(manifest: Any, policy: Any, directory: Path, goes_on: Callable[[], bool]) -> None:
        until(lambda: not goes_on(), "the end of the evaluator")
        interrupted.set()
        raise Interrupted

    monkeypatch.setattr(actor.film_thread, "film_episode", endless)
    with stage(**PAINTED) as s:
        evaluator = s.run(run_evaluator, videos=tmp_path)
        for version in (1, 2, 3):
            evaluated(s, version)
        assert not interrupted.is_set()
        s.control.stop_members(timeout_s=0.0)
        until(lambda: not evaluator.thread.is_alive(), "the end of the evaluator")
    assert interrupted.is_set()


def test_what_cannot_be_filmed_is_evaluated_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with stage(env="tests.environments:Ledger-v0", video_period=1) as s:
        s.run(run_evaluator, videos=tmp_path)
        for version in (1, 2, 3):
            evaluated(s, version)
        until(lambda: "not filmed" in caplog.text, "the warning")
        warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    (warning,) = warnings
    assert warning == (
        "evaluations are not filmed any more: cannot film tests.environments:Ledger-v0: it has no "
        "rgb_array"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_a_full_disk_has_no_room_for_is_not_the_last_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with stage(**PAINTED) as s:
        s.run(run_evaluator, videos=tmp_path)
        # ffmpeg inherits the limit.
        with file_size_limit(100):
            evaluated(s, 1)
            until(lambda: "was not filmed" in caplog.text, "the warning")
            assert list(tmp_path.iterdir()) == []
        evaluated(s, 2)
        until((tmp_path / "00000002.mp4").exists, "the next video")
    assert f"cannot write a video to {tmp_path}" in caplog.text


def test_a_run_with_a_video_period_has_its_videos(in_process: InProcess) -> None:
    run_dir = in_process(Config(**{**TINY, "video_period": 1}))
    evaluations = {e["updates"] for e in result_of(run_dir)["evaluations"]}
    videos = sorted((run_dir / "videos").iterdir())
    assert videos
    assert {int(path.stem) for path in videos} <= evaluations
    for path in videos:
        found = decoded(path)
        assert found.pictures.shape[1:] == (400, 600, 3)
        assert found.fps == 50.0
        assert 9 <= len(found.pictures) <= 501
