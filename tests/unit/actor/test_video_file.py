"""Videos come back as they were written, or not at all."""

import re
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from actor.video_file import Kind, Picture, VideoFile
from common.errors import ConfigError, EnvironmentFault, RunDirectoryError
from tests.videos import decoded


def grey(level: int, height: int = 40, width: int = 60) -> Picture:
    return np.full((height, width, 3), level, np.uint8)


LEVELS = [0, 40, 80, 120, 160, 200, 240]


@pytest.mark.parametrize(
    ("kind", "size", "size_in_file"),
    [
        ("mp4", (40, 60), (40, 60)),
        ("mp4", (41, 33), (42, 34)),  # H.264 with halved colours has even sides.
        ("mp4", (2, 2), (2, 2)),
        ("gif", (41, 33), (41, 33)),
    ],
)
@pytest.mark.parametrize("fps", [15.0, 50.0])
def test_a_file_holds_every_picture_in_turn(
    tmp_path: Path, kind: Kind, size: tuple[int, int], size_in_file: tuple[int, int], fps: float
) -> None:
    with VideoFile(tmp_path / "not" / "there", "film", fps, kind) as video:
        for level in LEVELS:
            video.write(grey(level, *size))
        path = video.finish(f"film.{kind}")
    found = decoded(path)
    assert found.pictures.shape == (len(LEVELS), *size_in_file, 3)
    inside = found.pictures[:, : size[0], : size[1]]
    # Video levels are 16 … 235, and coding loses a little.
    assert np.abs(inside.mean(axis=(1, 2, 3)) - LEVELS).max() < 4
    if kind == "mp4":
        assert found.fps == fps
    else:
        # Hundredths of a second: 6 and 7 of them, in turn, are 15 pictures a second.
        with Image.open(path) as gif:
            durations = [gif.seek(i) or gif.info["duration"] for i in range(gif.n_frames)]
        assert sum(durations) == pytest.approx(len(LEVELS) * 1000 / fps, abs=10)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_gif_is_no_faster_than_viewers_show_it(tmp_path: Path) -> None:
    with VideoFile(tmp_path, "film", 100.0, "gif") as video:
        for level in LEVELS:
            video.write(grey(level))
        assert decoded(video.finish("film.gif")).fps == 50.0


def test_pictures_that_do_not_lie_in_one_piece_are_written_as_they_look(tmp_path: Path) -> None:
    turned = np.zeros((60, 40, 3), np.uint8)
    turned[:30] = 255
    with VideoFile(tmp_path, "film", 10.0) as video:
        video.write(turned.swapaxes(0, 1))
        (picture,) = decoded(video.finish("film.mp4")).pictures
    assert picture[:, :28].min() > 250
    assert picture[:, 32:].max() < 5


def test_a_finished_file_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_text("old")
    with VideoFile(tmp_path, "film", 10.0) as video:
        video.write(grey(0))
        assert (tmp_path / "film.mp4").read_text() == "old"
        video.finish("film.mp4")
    assert len(decoded(tmp_path / "film.mp4").pictures) == 1


@pytest.mark.parametrize("pictures", [0, 1, 300])
def test_what_is_not_finished_leaves_nothing(tmp_path: Path, pictures: int) -> None:
    def interrupted() -> None:
        with VideoFile(tmp_path, "film", 10.0) as video:
            for i in range(pictures):
                video.write(grey(i % 256))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_change_size_are_refused(tmp_path: Path) -> None:
    with VideoFile(tmp_path, "film", 10.0) as video:
        video.write(grey(0, 40))
        with pytest.raises(EnvironmentFault, match=r"from \(40, 60, 3\) to \(42, 60, 3\)"):
            video.write(grey(0, 42))


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"cannot write a video to .*file/videos \("):
        VideoFile(tmp_path / "file" / "videos", "film", 10.0)


def test_what_ffmpeg_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full, played by a program that takes one picture and gives up."""
    full = tmp_path / "ffmpeg"
    full.write_text("#!/bin/sh\necho no warning >&2\necho No space left on device >&2\nexit 1\n")
    full.chmod(full.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(full))

    def filled() -> None:
        with VideoFile(tmp_path / "videos", "film", 10.0) as video:
            video.write(grey(0))
            video.finish("film.mp4")

    with pytest.raises(RunDirectoryError, match=re.escape("(No space left on device)")):
        filled()
    assert list((tmp_path / "videos").iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"package imageio-ffmpeg.*pip install -e '\.\[watch\]'"):
        VideoFile(tmp_path / "videos", "film", 10.0)
    assert not (tmp_path / "videos").exists()
