"""Numbers as people read them."""

import pytest

from deploy.dashboard.numbers import compact, duration, percent


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (0.0, "0"),
        (0.0123, "0.0123"),
        (3.14159, "3.14"),
        (42.0, "42"),
        (42.42, "42.4"),
        (99.97, "100"),
        (1_234.5, "1,234"),
        (9_999.0, "9,999"),
        (10_000.0, "10k"),
        (12_345.0, "12.3k"),
        (123_456.0, "123k"),
        (999_499.0, "999k"),
        (999_600.0, "1M"),
        (1_234_567.0, "1.23M"),
        (12_345_678_901.0, "12.3G"),
        (-12_345.0, "-12.3k"),
    ],
)
def test_three_digits_and_a_letter(value: float | None, text: str) -> None:
    assert compact(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (4.56, "4.6 s"),
        (59.6, "60 s"),
        (100.0, "1 min 40 s"),
        (3_599.9, "1 h 00 min"),
        (3_720.0, "1 h 02 min"),
        (200_000.0, "2 d 07 h"),
    ],
)
def test_a_duration_in_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_share_in_percent() -> None:
    assert (percent(None), percent(0.342), percent(1.0)) == ("–", "34%", "100%")
