"""What is drawn: frames enlarged by whole factors, Q-values beside them and nowhere else."""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from actor.picture import (
    BAR_END,
    BRIGHT,
    MAX_ROWS,
    NAME_END,
    PALE,
    PANEL_WIDTH,
    ROW_HEIGHT,
    QValuePanel,
    as_picture,
)
from actor.video_file import Picture
from common.errors import ConfigError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "factor"),
    [
        ((10, 10, 3), 48),  # MinAtar
        ((84, 84), 5),
        ((84, 84, 1), 5),
        ((210, 160, 3), 2),  # Atari
        ((240, 240, 3), 2),
        ((400, 600, 3), 1),  # CartPole
        ((900, 1_200, 3), 1),
    ],
)
def test_small_frames_are_enlarged_by_a_whole_factor(shape: tuple[int, ...], factor: int) -> None:
    frame = RNG.integers(0, 256, shape, np.uint8)
    picture = as_picture(frame)
    assert picture.shape == (shape[0] * factor, shape[1] * factor, 3)
    assert picture.dtype == np.uint8
    for row, column in ((0, 0), (shape[0] - 1, shape[1] - 1), (3, 7)):
        square = picture[row * factor :, column * factor :][:factor, :factor]
        assert (square == frame[row, column]).all()


def test_colours_from_0_to_1_become_bytes() -> None:
    frame = np.array([[[0.0, 0.5, 1.0]]], np.float64)
    assert as_picture(frame)[0, 0].tolist() == [0, 128, 255]


def test_alpha_is_left_out() -> None:
    frame = RNG.integers(0, 256, (4, 5, 4), np.uint8)
    assert (as_picture(frame)[::96, ::96] == frame[:, :, :3]).all()
    assert as_picture(frame / 255.0).shape == (4 * 96, 5 * 96, 3)


# ------------------------------------------------------------------------------------ the panel

PICTURE = RNG.integers(0, 256, (400, 300, 3), np.uint8)


def row(whole: Picture, number: int) -> Picture:
    """The panel's row of that number."""
    return whole[8 + number * ROW_HEIGHT :, -PANEL_WIDTH:][:ROW_HEIGHT]


def is_colour(pixels: Picture, colour: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    matches: npt.NDArray[np.bool_] = (pixels == colour).all(axis=-1)
    return matches


def bar_width(whole: Picture, number: int) -> int:
    """Pixels of the bar, along a line through the row that letters do not reach."""
    line = row(whole, number)[ROW_HEIGHT // 2, NAME_END : BAR_END + 1]
    return int((is_colour(line, BRIGHT) | is_colour(line, PALE)).sum())


def drawn(*q_values: float) -> Picture:
    names = [str(i) for i in range(len(q_values))]
    return QValuePanel(names).beside(PICTURE, np.array(q_values, np.float32))


def test_q_values_change_nothing_of_the_picture() -> None:
    whole = drawn(1.0, 2.0)
    assert whole.shape == (400, 300 + PANEL_WIDTH, 3)
    assert (whole[:, :300] == PICTURE).all()
    assert len(np.unique(whole[:, 300:].reshape(-1, 3), axis=0)) > 2


def test_the_chosen_action_alone_is_bright() -> None:
    whole = drawn(1.0, 3.0, 2.0)
    assert [bool(is_colour(row(whole, i), BRIGHT).any()) for i in range(3)] == [False, True, False]


def test_bars_are_advantages_over_the_worst_action() -> None:
    # Advantages 0, 4, 1: of 84 pixels none, all and a quarter; a bar has its first pixel always.
    whole = drawn(-1.0, 3.0, 0.0)
    assert [bar_width(whole, i) for i in range(3)] == [1, 85, 22]


def test_bars_keep_their_scale_through_an_episode() -> None:
    panel = QValuePanel(["left", "right"])
    panel.beside(PICTURE, np.array([10.0, 14.0], np.float32))
    later = panel.beside(PICTURE, np.array([101.0, 100.0], np.float32))
    assert [bar_width(later, i) for i in range(2)] == [22, 1]


def test_equal_values_have_no_bars() -> None:
    whole = drawn(5.0, 5.0)
    assert [bar_width(whole, i) for i in range(2)] == [1, 1]


def test_after_the_last_step_there_is_nothing_to_choose() -> None:
    whole = QValuePanel(["left", "right"]).beside(PICTURE, None)
    assert (whole[:, :300] == PICTURE).all()
    assert len(np.unique(whole[:, 300:].reshape(-1, 3), axis=0)) == 1


def test_a_low_picture_gets_room_for_all_rows() -> None:
    low = PICTURE[:50]
    whole = QValuePanel(list("abcdef")).beside(low, np.arange(6, dtype=np.float32))
    assert whole.shape == (16 + 6 * ROW_HEIGHT, 300 + PANEL_WIDTH, 3)
    assert (whole[:50, :300] == low).all()
    assert is_colour(row(whole, 5), BRIGHT).any()


def test_of_many_actions_the_best_are_shown() -> None:
    """30 actions, the last of them the best: its row is the last of 18."""
    whole = drawn(*range(30))
    assert is_colour(row(whole, MAX_ROWS - 1), BRIGHT).any()
    assert len(whole) == 16 + MAX_ROWS * ROW_HEIGHT


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "PIL", missing)
    with pytest.raises(ConfigError, match=r"package Pillow.*pip install -e '\.\[watch\]'"):
        QValuePanel(["left"])
