"""Videos of evaluations, for TensorBoard.

It shows moving pictures as GIFs among its images. `SummaryWriter.add_video` makes them with MoviePy
1, which is no more (PyTorch 2.13 still imports `moviepy.editor`). ffmpeg turns the file into one by
itself, and this process only waits.
"""

import logging
import struct
import subprocess
from pathlib import Path
from typing import Any

from common import ffmpeg
from common.errors import ConfigError

GIF_WIDTH, GIF_FPS, GIF_SECONDS = 240, 10, 60
"""At most: an event file is kept whole in TensorBoard's memory."""
LIMIT_S = 60.0

log = logging.getLogger(__name__)


class NewVideos:
    """The evaluations' videos in a directory, each once; none of those that are there already."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: set[str] = set()
        self.take()

    def take(self) -> list[Path]:
        """Those that came since the last call, by learner updates."""
        # Others in the directory were made by `python -m deploy play`.
        there = {path.name: path for path in self._directory.glob("*.mp4") if path.stem.isdigit()}
        new = sorted(there.keys() - self._seen)
        self._seen |= there.keys()
        return [there[name] for name in new]


def gif_summary(tag: str, path: Path) -> Any:
    """The video as an entry of TensorBoard, smaller and with fewer pictures; None, with a warning,
    when ffmpeg cannot read it."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    try:
        gif = _gif(path)
    except (ConfigError, OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        why = said.decode(errors="replace").strip().rpartition("\n")[2]
        log.warning("TensorBoard gets no video of %s: %s", path.name, why)
        return None
    width, height = struct.unpack_from("<HH", gif, offset=6)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _gif(path: Path) -> bytes:
    # Rounded up, so that something is left of the shortest video.
    picture = f"fps={GIF_FPS}:round=up,scale='min({GIF_WIDTH},iw)':-1:flags=area"
    palette = "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none"
    return subprocess.run(
        [ffmpeg.executable(), "-nostdin", "-loglevel", "error", "-i", str(path),
         "-t", str(GIF_SECONDS), "-filter_complex", f"{picture},{palette}",
         "-threads", "1", "-f", "gif", "pipe:1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=LIMIT_S,
    ).stdout  # fmt: skip
