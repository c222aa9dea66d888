"""Waiting for a condition, with a deadline instead of a guess."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def wait_until(
    condition: Callable[[], Result], what: str, limit_s: float = 30.0, period_s: float = 0.002
) -> Result:
    """The condition's first truthy result, looked at again after each `period_s`. Raises
    TimeoutError, naming `what`, after `limit_s`."""
    deadline_s = time.monotonic() + limit_s
    while not (result := condition()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"after {limit_s:g} s still waiting until {what}")
        time.sleep(period_s)
    return result
