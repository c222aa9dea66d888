"""Reads videos back with ffmpeg."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common import ffmpeg


@dataclass(frozen=True)
class Decoded:
    pictures: npt.NDArray[np.uint8]
    """[T, H, W, 3]"""
    fps: float
    codec: str


def decoded(path: Path) -> Decoded:
    """Every picture of the file as it is stored, none repeated to keep time."""
    run = subprocess.run(
        [ffmpeg.executable(), "-nostdin", "-i", str(path), "-fps_mode", "passthrough",
         "-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1"],
        capture_output=True,
        check=True,
    )  # fmt: skip
    # For example: Stream #0:0[0x1](und): Video: h264 (High) …, 60x40, 2 kb/s, 15 fps, 15 tbr, …
    (codec, width, height, fps), *_ = re.findall(
        r"Stream #0:0.*: Video: (\w+).*?, (\d+)x(\d+)[, ].*?([\d.]+) fps", run.stderr.decode()
    )
    pictures = np.frombuffer(run.stdout, np.uint8).reshape(-1, int(height), int(width), 3)
    return Decoded(pictures, float(fps), codec)
