"""What a film shows of a step: the environment's picture, enlarged, and the Q-values beside it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from actor.video_file import Picture
from common.environment_ids import how_to_install
from common.errors import ConfigError

ENLARGED_SIDE = 480
"""Pixels: a picture is enlarged by the largest whole factor that keeps its longer side within this;
a larger one stays as it is."""
PANEL_WIDTH, ROW_HEIGHT, MARGIN, FONT_SIZE = 260, 24, 8, 14
NAME_END, BAR_END = 96, 180
MAX_ROWS = 18
"""Actions shown: those of an Atari game."""
BACKGROUND, PALE, BRIGHT = (18, 18, 24), (165, 172, 188), (255, 190, 60)


def is_frame(rendered: Any) -> bool:
    """Whether it is an array [H, W], [H, W, 1], [H, W, 3] or, with alpha, [H, W, 4]."""
    return (
        isinstance(rendered, np.ndarray)
        and rendered.dtype.kind in "biuf"
        and rendered.size > 0
        and (rendered.ndim == 2 or (rendered.ndim == 3 and rendered.shape[2] in (1, 3, 4)))
    )


def as_picture(frame: npt.NDArray[Any]) -> Picture:
    """A frame of uint8, or of floats from 0 to 1, without its alpha and enlarged by a whole factor:
    [H·k, W·k, 3]."""
    if frame.ndim == 2:
        frame = frame[:, :, None]
    frame = frame[:, :, :3]
    if frame.dtype.kind == "f":
        frame = np.rint(frame * 255.0)
    factor = max(1, ENLARGED_SIDE // max(frame.shape[:2]))
    colours = np.broadcast_to(frame.astype(np.uint8, copy=False), (*frame.shape[:2], 3))
    return colours if factor == 1 else colours.repeat(factor, axis=0).repeat(factor, axis=1)


class QValuePanel:
    """Draws the Q-values of one episode beside its pictures: a row for each action, in colour the
    one that is chosen.

    A bar's length is the action's advantage over the worst one, in proportion to the largest that
    the episode has shown: with short bars it does not matter what is done. The number is Q itself.

    Args:
        names: of the actions, as far as the environment tells them.

    Raises ConfigError when Pillow is not installed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        try:
            from PIL import ImageFont
        except ImportError as error:
            raise ConfigError(
                "Q-values are drawn with the package Pillow, which is not installed: "
                f"{how_to_install('watch')}"
            ) from error
        self._names = list(names)
        self._font = ImageFont.load_default(FONT_SIZE)
        self._largest_gap = 0.0

    def beside(self, picture: Picture, q_values: npt.NDArray[np.float32] | None) -> Picture:
        """The picture [H, W, 3] with the panel to its right: [max(H, rows), W + PANEL_WIDTH, 3].

        Args:
            q_values: [A]; None after the last step, where nothing is to be chosen.
        """
        height = max(len(picture), 2 * MARGIN + ROW_HEIGHT * min(len(self._names), MAX_ROWS))
        if len(picture) < height:
            below = np.full((height - len(picture), *picture.shape[1:]), BACKGROUND, np.uint8)
            picture = np.concatenate([picture, below])
        return np.concatenate([picture, self._panel(height, q_values)], axis=1)

    def _panel(self, height: int, q_values: npt.NDArray[np.float32] | None) -> Picture:
        from PIL import Image, ImageDraw

        panel = Image.new("RGB", (PANEL_WIDTH, height), BACKGROUND)
        if q_values is None:
            return np.asarray(panel)
        gaps = q_values - q_values.min()
        self._largest_gap = max(self._largest_gap, float(gaps.max()))
        draw = ImageDraw.Draw(panel)
        shown = np.sort(np.argsort(-q_values, kind="stable")[:MAX_ROWS])
        chosen = int(q_values.argmax())
        for row, action in enumerate(shown.tolist()):
            middle = MARGIN + row * ROW_HEIGHT + ROW_HEIGHT // 2
            colour = BRIGHT if action == chosen else PALE
            share = gaps[action] / self._largest_gap if self._largest_gap else 0.0
            end = NAME_END + round(float(share) * (BAR_END - NAME_END))
            draw.text((MARGIN, middle), self._names[action][:11], colour, self._font, "lm")
            draw.rectangle((NAME_END, middle - 6, end, middle + 5), colour)
            number = f"{q_values[action]:.4g}"
            draw.text((PANEL_WIDTH - MARGIN, middle), number, colour, self._font, "rm")
        return np.asarray(panel)
