"""The fuzzers on a small budget, and that they find what there is to find.

`python -m tests.fuzz --inputs 10000000` is the long run.
"""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import codec, compression, frame_deltas
from common.errors import Reason
from common.messages import Message
from tests.contract.examples import EXAMPLES
from tests.fuzz import decoder
from tests.fuzz.behind import TARGETS, fuzz_behind
from tests.fuzz.decoder import fuzz
from tests.fuzz.mutations import Frames, Mutator
from tests.fuzz.peers import frames_of

INPUTS = 60_000
LIES = 1_000


def refusals(module: Any) -> set[str]:
    """Where a file raises a WireError, as `Tally.answers` has it."""
    path = Path(module.__file__)
    raised = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Raise)]
    return {
        f"{path.name}:{node.lineno}"
        for node in raised
        if "Malformed" in ast.dump(node) or "Mismatch" in ast.dump(node)
    }


def test_the_decoder_answers_anything_by_a_message_or_a_refusal_of_each_kind(
    tmp_path: Path,
) -> None:
    tally = fuzz("suite", INPUTS, tmp_path)

    assert tally.findings == []
    assert tally.inputs == tally.messages + tally.rejected.total()
    # The inputs get everywhere: each check refuses some, and each kind of message passes some.
    refused = refusals(codec) | refusals(compression) | refusals(frame_deltas)
    assert refused - tally.answers == set()
    assert codec._LAYOUTS.keys() <= tally.answers
    assert tally.rejected.keys() >= {
        Reason.UNDECODABLE, Reason.SCHEMA, Reason.UNKNOWN_KIND, Reason.FIELD, Reason.DTYPE,
        Reason.SHAPE, Reason.TOO_LARGE,
    }  # fmt: skip


def test_the_same_seed_makes_the_same_inputs() -> None:
    def inputs(seed: str) -> list[Frames]:
        mutator = Mutator(seed)
        return [mutator.next() for _ in range(200)]

    assert inputs("a") == inputs("a") != inputs("b")


@pytest.mark.parametrize("kind", TARGETS, ids=lambda kind: kind.__name__)
def test_what_is_behind_the_decoder_holds_whatever_it_is_told(kind: type[Any]) -> None:
    assert len(fuzz_behind("suite", LIES, kind)) > 1


# ----------------------------------------------------------------------- faults that were planted


def raises(frames: Frames) -> Message:
    raise KeyError("planted")


def allocates(frames: Frames) -> Message:
    np.ones(100 << 20, np.uint8)
    return codec.decode(frames)


def dawdles(frames: Frames) -> Message:
    sum(range(20_000_000))
    return codec.decode(frames)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (raises, "KeyError: 'planted'"),
        (allocates, "bytes made the process grow by"),
        (dawdles, "of processor time"),
    ],
)
def test_a_fault_is_found_and_leaves_a_file_that_shows_it(
    fault: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "decoded", fault)
    if fault is allocates:
        # This process may have been that large before.
        monkeypatch.setattr(decoder.resource, "getrusage", growing_usage())

    (finding,) = fuzz("planted", 1, tmp_path).findings

    path, _, text = finding.partition("\n")
    assert said in text
    shown: dict[str, Any] = {}
    exec(compile(Path(path).read_text(), path, "exec"), shown)
    assert shown["FRAMES"] == Mutator("planted").next()


def growing_usage() -> Any:
    """Of a process whose peak grows by 100 MB with each look."""
    peaks = iter(range(0, 1 << 40, 100 << 10))
    return lambda _: type("Usage", (), {"ru_maxrss": next(peaks)})


def test_the_writer_that_checks_nothing_writes_what_the_codec_does() -> None:
    for example in EXAMPLES:
        assert frames_of(example) == [bytes(frame) for frame in codec.encode(example)]
