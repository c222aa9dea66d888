"""Good messages with one thing wrong, and what must become of them."""

from typing import Any

import msgpack
import pytest

from common import codec
from common.errors import MalformedMessage
from common.messages import Message
from tests.contract.examples import EXAMPLES

LONGEST_REASON = 500
"""Characters: a refusal goes back to the sender and into the log."""

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.kind)


def example_of(kind: str) -> Message:
    (example,) = (example for example in EXAMPLES if example.kind == kind)
    return example


def frames_of(example: Message) -> list[bytes]:
    return [bytes(frame) for frame in codec.encode(example)]


def header_of(example: Message) -> list[Any]:
    """[version, kind, fields, arrays], the last unpacked, too."""
    parts: list[Any] = msgpack.unpackb(frames_of(example)[0])
    parts[3] = msgpack.unpackb(parts[3]) if parts[3] else []
    return parts


def with_value(example: Message, place: list[Any], value: object) -> list[bytes]:
    """The frames of a message with another value at one place of its header."""
    parts = header_of(example)
    *way, last = place
    here: Any = parts
    for step in way:
        here = here[step]
    here[last] = value
    if place != [3]:
        parts[3] = msgpack.packb(parts[3])
    return [msgpack.packb(parts), *frames_of(example)[1:]]


def every_place(example: Message) -> list[list[Any]]:
    """Where each part of a header lies: version, kind, fields, dtypes, shapes, sizes."""
    _, _, fields, arrays = header_of(example)
    places: list[list[Any]] = [[0], [1], [2], [3], *([2, name] for name in fields)]
    for i, (_, shape) in enumerate(arrays):
        places += [[3, i], [3, i, 0], [3, i, 1], *([3, i, 1, axis] for axis in range(len(shape)))]
    return places


def assert_malformed(frames: list[bytes]) -> None:
    with pytest.raises(MalformedMessage) as caught:
        codec.decode(frames)
    assert len(str(caught.value)) <= LONGEST_REASON
    assert str(caught.value).isprintable()
