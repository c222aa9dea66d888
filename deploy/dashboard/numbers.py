"""Numbers as people read them."""

import math

UNKNOWN = "–"


def compact(value: float | None) -> str:
    """Three digits and a letter: 1234567 is 1.23M."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    size = abs(value)
    # 999,600 is 1M, not 1000k.
    for limit, unit, letter in ((999.5e6, 1e9, "G"), (999.5e3, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= limit:
            return f"{_digits(value / unit)}{letter}"
    return f"{value:,.0f}" if size >= 100 or value == int(value) else _digits(value)


def _digits(value: float) -> str:
    """Three significant ones."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.0%}"


def duration(seconds: float | None) -> str:
    """The two largest units: 1 h 02 min."""
    if seconds is None:
        return UNKNOWN
    whole = round(seconds)
    if whole < 100:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    minutes, s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {s:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02} h"
