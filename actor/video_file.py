"""A video on its way to a file, fed picture by picture.

Gymnasium's RecordVideo keeps an episode's pictures in memory until it ends (27,000 steps of an
Atari game: 2.7 GB) and writes under the final name. Here they go to ffmpeg one by one, a file gets
its name when it is complete, and an interrupted one leaves nothing.
"""

import contextlib
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

import numpy as np
import numpy.typing as npt

from common import ffmpeg
from common.errors import EnvironmentFault, RunDirectoryError

Picture = npt.NDArray[np.uint8]
"""[height, width, 3], red, green and blue."""
Kind = Literal["mp4", "gif"]

MAX_GIF_FPS = 50.0
"""Viewers show what claims to be faster at a tenth of a second for each picture."""
_ENCODING = {
    # Players and browsers know H.264 with halved colours, which needs even sides; they begin to
    # play before they have the whole file when its index stands at the front.
    "mp4": ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-c:v", "libx264", "-preset", "veryfast",
            "-pix_fmt", "yuv420p", "-movflags", "+faststart"],
    # 256 colours, chosen anew for each picture: for the whole film at once, ffmpeg would have to
    # keep it.
    "gif": ["-filter_complex",
            "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=none"],
}  # fmt: skip


class VideoFile:
    """As a context, it leaves no file unless `finish` was called.

    Args:
        stem: of its name until it is finished.
        fps: pictures shown in a second.

    Raises ConfigError when there is no ffmpeg, RunDirectoryError when the directory cannot be
    written.
    """

    def __init__(self, directory: Path, stem: str, fps: float, kind: Kind = "mp4") -> None:
        self._executable = ffmpeg.executable()
        self._directory = directory
        self._fps = min(fps, MAX_GIF_FPS) if kind == "gif" else fps
        self._kind = kind
        self._partial = directory / f"{stem}.{kind}.partial"
        self._shape: tuple[int, ...] | None = None
        self._encoder: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._partial.touch()
        except OSError as error:
            self._complaints.close()
            raise _unwritable(directory, str(error.strerror)) from error

    def write(self, picture: Picture) -> None:
        """Raises RunDirectoryError when ffmpeg cannot go on, EnvironmentFault when this picture is
        of another size than the first."""
        if self._encoder is None:
            self._shape = picture.shape
            self._encoder = self._start(*picture.shape[:2])
        if picture.shape != self._shape:
            raise EnvironmentFault(
                f"cannot film pictures that change from {self._shape} to {picture.shape}"
            )
        assert self._encoder.stdin is not None
        try:
            self._encoder.stdin.write(np.ascontiguousarray(picture).data)
        except OSError as error:
            raise self._failed() from error

    def finish(self, name: str) -> Path:
        """The complete file, `directory/name`, in place of one of that name that may be there.

        Raises RunDirectoryError when it cannot be written.
        """
        assert self._encoder is not None
        assert self._encoder.stdin is not None
        try:
            self._encoder.stdin.close()
            if self._encoder.wait():
                raise self._failed()
            return self._partial.replace(self._directory / name)
        except OSError as error:
            raise self._failed() from error

    def close(self) -> None:
        """Remove what is not finished."""
        if self._encoder is not None:
            self._encoder.kill()
            self._encoder.wait()
            assert self._encoder.stdin is not None
            # What the pipe still holds is for a process that is gone.
            with contextlib.suppress(OSError):
                self._encoder.stdin.close()
        self._complaints.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, height: int, width: int) -> "subprocess.Popen[bytes]":
        pictures = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        source = [*pictures, "-r", f"{self._fps:g}", "-i", "pipe:0"]
        # One thread: while an evaluation is filmed, the other cores act and learn.
        result = [*_ENCODING[self._kind], "-threads", "1", "-f", self._kind, str(self._partial)]
        return subprocess.Popen(
            [self._executable, "-nostdin", "-loglevel", "error", "-y", *source, *result],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._complaints,
            # Ctrl-C is for us: we then remove the file.
            start_new_session=True,
        )

    def _failed(self) -> RunDirectoryError:
        self._complaints.seek(0)
        said = self._complaints.read().decode(errors="replace").strip()
        return _unwritable(self._directory, said.rpartition("\n")[2] or "ffmpeg ended")


def _unwritable(directory: Path, why: str) -> RunDirectoryError:
    return RunDirectoryError(
        f"cannot write a video to {directory} ({why}): make it writable or choose another directory"
    )
