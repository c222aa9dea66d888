"""Bytes from strangers: frames, headers and fields that are not as declared end in a WireError."""

import typing
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from common import codec
from common.errors import SchemaMismatch, WireError
from common.messages import SCHEMA_VERSION, Message
from tests.contract.damage import (
    LONGEST_REASON,
    assert_malformed,
    each_example,
    every_place,
    example_of,
    frames_of,
    header_of,
    with_value,
)

# ---------------------------------------------------------------------------------------- frames


@each_example
def test_a_truncated_or_padded_frame_is_refused(example: Message) -> None:
    frames = frames_of(example)
    for i, frame in enumerate(frames):
        for size in range(len(frame)):
            assert_malformed([*frames[:i], frame[:size], *frames[i + 1 :]])
        assert_malformed([*frames[:i], frame + b"\x00", *frames[i + 1 :]])


@each_example
def test_a_frame_too_many_or_too_few_is_refused(example: Message) -> None:
    frames = frames_of(example)
    assert_malformed([*frames, b""])
    assert_malformed([*frames, frames[-1]])
    assert_malformed(frames[:-1])
    assert_malformed([])


# ---------------------------------------------------------------------------------------- header


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",  # never used in msgpack
        b"\x94\x02",  # a list of 4 that ends after 1
        b"\xdd\xff\xff\xff\xff",  # a list of 2³² − 1
        b"\xdf\xff\xff\xff\xff",  # a map of as many
        b"\xc6\xff\xff\xff\xff",  # as many bytes
        b"\x94\x02\xa3\xff\xfe\xfd\x80\x90",  # a string that is not UTF-8
        b"\x94\x02\xa3ack\x81\x01\x02\x90",  # a map whose key is a number
        b"\x94\x02\xa3ack\x81\x91\x01\x02\x90",  # … or a list
        b"\x94\x02\xa3ack\xc7\x03\xff\x01\x02\x03\x90",  # a time stamp of 3 bytes
        b"\x91" * 2_000 + b"\x01",  # lists in lists
        b"<html>",
        msgpack.packb(None),
        msgpack.packb(SCHEMA_VERSION),
        msgpack.packb("ack"),
        msgpack.packb(b"ack"),
        msgpack.packb({"version": SCHEMA_VERSION, "kind": "ack"}),
        msgpack.packb([]),
        msgpack.packb([SCHEMA_VERSION]),
        msgpack.packb([SCHEMA_VERSION, "status_request", {}]),
        msgpack.packb([SCHEMA_VERSION, "status_request", {}, [], []]),
        msgpack.packb([SCHEMA_VERSION, "status_request", [], []]),
        msgpack.packb([SCHEMA_VERSION, "status_request", None, []]),
        msgpack.packb([SCHEMA_VERSION, "status_request", {}, {}]),
        msgpack.packb([SCHEMA_VERSION, "status_request", {}, None]),
        msgpack.packb([SCHEMA_VERSION, "status_request", {}, 0]),
    ],
    ids=lambda header: repr(header[:24]),
)
def test_a_header_that_is_not_the_declared_list_is_refused(header: bytes) -> None:
    assert_malformed([header])


def test_a_header_beyond_its_limit_is_refused_before_it_is_read() -> None:
    def leave(reason_bytes: int) -> list[bytes]:
        return with_value(example_of("leave"), [2, "reason"], "x" * reason_bytes)

    rest = len(leave(1 << 17)[0]) - (1 << 17)
    codec.decode(leave(codec.MAX_HEADER_BYTES - rest))
    assert_malformed(leave(codec.MAX_HEADER_BYTES - rest + 1))


@pytest.mark.parametrize(
    "kind",
    ["", "message", "Ack", "ack ", "ack\x00", b"ack", None, 0, True, [], {}, ["ack"]],
    ids=repr,
)
def test_an_unknown_kind_is_refused(kind: Any) -> None:
    assert_malformed([msgpack.packb([SCHEMA_VERSION, kind, {"session": 1, "sequence": 2}, []])])


@pytest.mark.parametrize(
    "version",
    [
        *(0, SCHEMA_VERSION - 1, SCHEMA_VERSION + 1, -1, 1 << 63),
        *("1", b"1", 1.5, None, [], {}, True, 1.0, float(SCHEMA_VERSION)),
    ],
)
@pytest.mark.parametrize(
    "rest",
    [
        ["ack", {"session": 1, "sequence": 2}, []],
        [],
        ["ack"],
        [{"kind": "ack"}, None, 3, 4, 5],
    ],
    ids=["this layout", "nothing else", "shorter", "another layout"],
)
def test_another_version_is_told_apart_whatever_the_rest_looks_like(
    version: Any, rest: list[Any]
) -> None:
    with pytest.raises(SchemaMismatch, match="run the same zapex release on every host"):
        codec.decode([msgpack.packb([version, *rest]), b"a frame of its own"])


@pytest.mark.parametrize("example", [example_of("sample_request"), example_of("weights")])
@pytest.mark.parametrize(
    "value",
    ["x" * 100_000, [[0] * 1_000] * 100, {"x" * 100_000: 1}, "\n\r\x1b[2J"],
    ids=["a long string", "a long list", "a long key", "control characters"],
)
def test_a_refusal_does_not_repeat_at_length_what_was_sent(example: Message, value: Any) -> None:
    for place in every_place(example):
        frames = with_value(example, place, value)
        with pytest.raises(WireError) as caught:
            codec.decode(frames)
        assert len(str(caught.value)) <= LONGEST_REASON
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("example", [example_of("sample_request"), example_of("weights")])
@pytest.mark.parametrize("depth", [100, 900, 1_000, 1_015])
def test_lists_within_lists_are_refused_like_any_other_value(example: Message, depth: int) -> None:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    for place in every_place(example):
        frames = with_value(example, place, nested)
        with pytest.raises(WireError):
            codec.decode(frames)


# ---------------------------------------------------------------------------------------- fields

OF_EVERY_TYPE = [None, True, 7, 1.5, "text", b"bytes", [7], ["text"], {"key": 1.5}, {"key": "text"}]
ACCEPTED: dict[Any, Callable[[Any], bool]] = {
    # A bool is no number and a number is no bool; a whole number will do for a float.
    int: lambda v: isinstance(v, int) and not isinstance(v, bool),
    float: lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    bool: lambda v: isinstance(v, bool),
    str: lambda v: isinstance(v, str),
    dict[str, float]: lambda v: v == {"key": 1.5},
    dict[str, Any]: lambda v: isinstance(v, dict),
}


def scalar_fields(example: Message) -> dict[str, Any]:
    """The types of the fields that travel in the header."""
    hints = typing.get_type_hints(type(example))
    return {name: hint for name, hint in hints.items() if hint in ACCEPTED}


@each_example
def test_a_field_of_another_type_is_refused(example: Message) -> None:
    for name, hint in scalar_fields(example).items():
        for value in OF_EVERY_TYPE:
            frames = with_value(example, [2, name], value)
            if ACCEPTED[hint](value):
                assert getattr(codec.decode(frames), name) == value
            else:
                assert_malformed(frames)


@pytest.mark.parametrize("value", [1 << 63, (1 << 64) - 1])
def test_an_integer_that_no_column_can_hold_is_refused(value: int) -> None:
    for name in ("session", "sequence"):
        frames = with_value(example_of("ack"), [2, name], value)
        assert_malformed(frames)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("heartbeat", "values", {"a": 1.0, "b": None}),
        ("heartbeat", "values", {"a": True}),
        ("heartbeat", "values", {b"a": 1.0}),
        ("status", "status", {b"a": 1.0}),
        ("weights", "tensors", None),
        ("weights", "tensors", {"q.weight": 0, "q.bias": 1, "scale": 2, "none": 3}),
        ("weights", "tensors", ["q.weight", "q.bias", "scale", 4]),
        ("weights", "tensors", ["q.weight", "q.bias", "scale", b"none"]),
        ("weights", "tensors", ["q.weight", "q.bias", "scale", "scale"]),
        ("weights", "tensors", ["q.weight", "q.bias", "scale"]),
        ("weights", "tensors", ["q.weight", "q.bias", "scale", "none", "more"]),
    ],
)
def test_a_collection_with_one_wrong_element_is_refused(kind: str, name: str, value: Any) -> None:
    assert_malformed(with_value(example_of(kind), [2, name], value))


@each_example
def test_a_missing_field_and_an_unknown_one_are_refused(example: Message) -> None:
    fields = header_of(example)[2]
    for name in fields:
        others = {n: value for n, value in fields.items() if n != name}
        assert_malformed(with_value(example, [2], others))
        assert_malformed(with_value(example, [2], {**others, name + "_": fields[name]}))
    assert_malformed(with_value(example, [2, "extra"], 0))
