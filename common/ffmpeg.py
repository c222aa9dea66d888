"""ffmpeg, the program that makes and reads videos: the package imageio-ffmpeg brings one along."""

from common.environment_ids import how_to_install
from common.errors import ConfigError


def executable() -> str:
    """Its path: the one that $IMAGEIO_FFMPEG_EXE names, the package's own, or the system's.

    Raises ConfigError when there is none.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ConfigError(
            "videos need the package imageio-ffmpeg, which is not installed: "
            f"{how_to_install('watch')}"
        ) from error
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise ConfigError(
            "videos need ffmpeg, and imageio-ffmpeg has none for this machine: install ffmpeg "
            "from the system's packages"
        ) from error
