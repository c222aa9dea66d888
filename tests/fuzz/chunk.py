"""One share of the inputs, the same in whatever process."""

import logging
import traceback
from pathlib import Path

from tests.fuzz.behind import TARGETS, fuzz_behind
from tests.fuzz.decoder import Tally, fuzz

CHUNK = 25_000
LIES_PER_CHUNK = 250
"""For each of the targets."""


def fuzz_chunk(seed: str, reproducers: Path, inputs: int, number: int) -> Tally:
    """One chunk of `inputs`, and a hundredth of that behind the decoder."""
    logging.disable(logging.CRITICAL)
    tally = fuzz(f"{seed}-{number}", inputs, reproducers)
    for kind in TARGETS:
        try:
            fuzz_behind(f"{seed}-{number}", LIES_PER_CHUNK, kind)
        except BaseException as error:
            tally.findings.append("".join(traceback.format_exception(error)))
    return tally
