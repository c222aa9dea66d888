"""The bytes on the wire are those that every other build of this schema version writes."""

import numpy as np
import pytest

from common import codec, messages
from common.messages import Ack, Message, SampleRequest
from tests.contract.equality import assert_same
from tests.contract.examples import EXAMPLES
from tests.contract.regenerate import GOLDEN, golden_frames, golden_text

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.kind)


def test_there_is_one_example_of_every_message() -> None:
    declared = [
        value
        for value in vars(messages).values()
        if isinstance(value, type) and issubclass(value, Message) and value is not Message
    ]
    assert {type(example) for example in EXAMPLES} == set(declared)
    assert len({cls.kind for cls in declared}) == len(declared) == len(EXAMPLES)


@each_example
def test_the_golden_bytes_are_what_is_sent(example: Message) -> None:
    sent = [bytes(frame) for frame in codec.encode(example)]

    assert sent == golden_frames()[example.kind], (
        "the wire has changed: raise SCHEMA_VERSION and run python -m tests.contract.regenerate"
    )


@each_example
def test_the_golden_bytes_are_understood(example: Message) -> None:
    assert_same(codec.decode(golden_frames()[example.kind]), example)


def test_the_golden_file_is_as_its_command_writes_it() -> None:
    assert GOLDEN.read_text() == golden_text()


@pytest.mark.parametrize(
    ("message", "frames"),
    [
        (
            Ack(session=5, sequence=300),
            [
                (
                    b"\x94"  # a list of 4:
                    b"\x06"  # the schema version,
                    b"\xa3ack"  # a string of 3,
                    b"\x82"  # a map of 2:
                    b"\xa7session\x05"
                    b"\xa8sequence\xcd\x01\x2c"  # 300 as two bytes, big-endian,
                    b"\xc4\x00"  # and no bytes about arrays.
                )
            ],
        ),
        (
            SampleRequest(2, np.array([1], np.int64), np.array([0.5], np.float32)),
            [
                (
                    b"\x94\x06\xaesample_request\x82\xa7batches\x02\xa9keys_only\xc2"  # false
                    b"\xc4\x0f"  # 15 bytes:
                    b"\x92"  # a list of 2 arrays,
                    b"\x92\xa3<i8\x91\x01"  # dtype and shape of each.
                    b"\x92\xa3<f4\x91\x01"
                ),
                (
                    b"\x01\x00\x00\x00\x00\x00\x00\x00"  # Little-endian;
                    b"\x00\x00\x00\x3f\x00\x00\x00\x00"  # sign 0, exponent 126; padding.
                ),
            ],
        ),
    ],
    ids=["ack", "sample_request"],
)
def test_frames_put_together_by_hand_from_the_msgpack_specification(
    message: Message, frames: list[bytes]
) -> None:
    assert [bytes(frame) for frame in codec.encode(message)] == frames
    assert_same(codec.decode(frames), message)
