"""A window that shows pictures."""

import os
import sys

from actor.video_file import Picture
from common.environment_ids import how_to_install
from common.errors import ConfigError


def has_display() -> bool:
    """Whether this process can open a window; SDL_VIDEODRIVER says that somebody made sure."""
    if sys.platform != "linux":
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))


class Window:
    """Opens with the first picture, of its size.

    Args:
        fps: pictures a second; `show` waits as long as that takes.

    Raises ConfigError when there is no display, or pygame is not installed.
    """

    def __init__(self, title: str, fps: float) -> None:
        if not has_display():
            raise ConfigError(
                "--render human needs a display, and there is none here ($DISPLAY is not set): "
                "make videos with --video DIR"
            )
        try:
            import pygame
        except ImportError as error:
            raise ConfigError(
                "--render human needs the package pygame-ce, which is not installed: "
                f"{how_to_install('watch')}"
            ) from error
        self._pygame = pygame
        self._title, self._fps = title, fps
        self._screen: pygame.Surface | None = None
        self._clock = pygame.time.Clock()
        self.closed = False
        """By the user: with its button, Escape or q."""

    def show(self, picture: Picture) -> None:
        """[H, W, 3]. Raises ConfigError when the display refuses."""
        pygame = self._pygame
        size = picture.shape[1], picture.shape[0]
        if self._screen is None or self._screen.get_size() != size:
            try:
                pygame.display.init()
                self._screen = pygame.display.set_mode(size)
            except pygame.error as error:
                raise ConfigError(f"cannot open a window: {error}") from error
            pygame.display.set_caption(self._title)
        pygame.surfarray.blit_array(self._screen, picture.swapaxes(0, 1))
        pygame.display.flip()
        self._clock.tick(self._fps)
        for event in pygame.event.get():
            leaves = event.type == pygame.KEYDOWN and event.key in (pygame.K_ESCAPE, pygame.K_q)
            self.closed |= event.type == pygame.QUIT or leaves

    def close(self) -> None:
        self._pygame.display.quit()
