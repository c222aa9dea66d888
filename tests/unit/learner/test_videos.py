"""Videos of evaluations on their way to TensorBoard."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest

from actor.video_file import VideoFile
from common.config import Config
from learner.recorder import Record
from learner.sinks import TensorBoard
from learner.videos import GIF_SECONDS, NewVideos, gif_summary


def put_video(path: Path, pictures: int = 30, fps: float = 30.0, width: int = 480) -> None:
    """Its pictures become brighter from first to last."""
    with VideoFile(path.parent, path.stem, fps) as video:
        for i in range(pictures):
            level = round(255 * i / max(pictures - 1, 1))
            video.write(np.full((width // 2, width, 3), level, np.uint8))
        video.finish(path.name)


def test_each_new_video_of_an_evaluation_is_taken_once(tmp_path: Path) -> None:
    """Those of an earlier part of the run, half ones and those that `play` made are not."""
    (tmp_path / "00000100.mp4").touch()
    videos = NewVideos(tmp_path)
    assert videos.take() == []
    for name in ("00000300.mp4", "00000200.mp4", "00000400.mp4.partial", "00000500.gif",
                 "best_episode_1_seed_0_return_1_length_1.mp4"):  # fmt: skip
        (tmp_path / name).touch()
    assert [path.name for path in videos.take()] == ["00000200.mp4", "00000300.mp4"]
    assert videos.take() == []


def test_a_directory_may_come_later(tmp_path: Path) -> None:
    videos = NewVideos(tmp_path / "videos")
    assert videos.take() == []
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "1.mp4").touch()
    assert len(videos.take()) == 1


@pytest.mark.parametrize(
    ("width", "pictures", "fps", "expected_size", "expected_pictures"),
    [
        (480, 30, 30.0, (240, 120), 10),  # A second at 10 pictures.
        (100, 20, 10.0, (100, 50), 20),  # Small enough as it is.
        (480, 1, 30.0, (240, 120), 1),
        (64, 70 * 5, 5.0, (64, 32), GIF_SECONDS * 10),  # Cut after a minute.
    ],
)
def test_a_video_becomes_a_small_moving_picture(
    tmp_path: Path, width: int, pictures: int, fps: float,
    expected_size: tuple[int, int], expected_pictures: int,
) -> None:  # fmt: skip
    from PIL import Image

    put_video(tmp_path / "1.mp4", pictures, fps, width)
    summary = gif_summary("eval/video", tmp_path / "1.mp4")
    (value,) = summary.value
    assert value.tag == "eval/video"
    assert (value.image.width, value.image.height) == expected_size
    with Image.open(io.BytesIO(value.image.encoded_image_string)) as gif:
        assert gif.size == expected_size
        duration_ms = 0
        for frame in range(gif.n_frames):
            gif.seek(frame)
            duration_ms += gif.info["duration"]
    # Equal pictures in a row may be one that is shown longer.
    assert duration_ms == expected_pictures * 100


def test_a_file_that_is_no_video_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1.mp4").write_text("nothing to see")
    assert gif_summary("eval/video", tmp_path / "1.mp4") is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("TensorBoard gets no video of 1.mp4: ")


def test_tensorboard_shows_the_videos_that_come(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoard(tmp_path / "tb", Config(), tmp_path / "videos")
    sink.write(Record(1e9, 1.0, 10, 1))
    (tmp_path / "videos").mkdir()
    put_video(tmp_path / "videos" / "00000001.mp4")
    sink.write(Record(1e9 + 1, 2.0, 20, 2))
    put_video(tmp_path / "videos" / "00000002.mp4")
    sink.write(Record(1e9 + 2, 3.0, 30, 3))
    put_video(tmp_path / "videos" / "00000003.mp4")
    sink.close()
    events = EventAccumulator(str(tmp_path / "tb"), size_guidance={"images": 0})
    events.Reload()
    images = events.Images("eval/video")
    # The last one came after the last record.
    assert [(image.step, image.wall_time) for image in images] == [
        (20, 1e9 + 1), (30, 1e9 + 2), (30, 1e9 + 2),
    ]  # fmt: skip
    assert all(image.encoded_image_string.startswith(b"GIF8") for image in images)
