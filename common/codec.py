"""Messages to frames and back.

    frame 0      msgpack [SCHEMA_VERSION, kind, {scalar fields}, [[dtype, shape], ...]]
    frame 1...   one raw, C-ordered, little-endian buffer per array, in declaration order

Encoding copies nothing (a frame is a view of the array); decoding copies nothing either (an array
is a view of the frame). Nothing here executes or unpickles anything, and everything that
can be wrong with bytes from a stranger ends in `MalformedMessage` or `SchemaMismatch`: whatever a
decoded message claims about its arrays' sizes, their frames were that long.
"""

import dataclasses
import math
import reprlib
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from common import messages
from common.errors import MalformedMessage, SchemaMismatch
from common.messages import SCHEMA_VERSION, ArraySpec, Message, NamedTensors

Frame = bytes | bytearray | memoryview

MAX_HEADER_BYTES = 1 << 20
MAX_NDIM = 8
DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name)
    for name in ["|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"]
}
"""Every dtype the wire knows, by the name it has in the header."""

_SCALAR_CHECKS: dict[Any, Callable[[Any], bool]] = {
    # bool is an int to Python, never to the contract; −2⁶³ … 2⁶³−1 is what an int64 column holds.
    int: lambda v: type(v) is int and -(1 << 63) <= v < 1 << 63,
    float: lambda v: type(v) in (float, int),
    bool: lambda v: type(v) is bool,
    str: lambda v: type(v) is str,
    list[str]: lambda v: type(v) is list and all(type(x) is str for x in v),
    dict[str, float]: lambda v: (
        type(v) is dict and all(type(k) is str and type(x) in (float, int) for k, x in v.items())
    ),
    dict[str, Any]: lambda v: type(v) is dict and all(type(k) is str for k in v),
}


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How one message class lies on the wire."""

    cls: type[Message]
    scalars: tuple[tuple[str, Callable[[Any], bool]], ...]
    arrays: tuple[tuple[str, ArraySpec], ...]
    tensors: str | None
    """The field of named tensors, always the last one."""


def _layout(cls: type[Message]) -> _Layout:
    scalars, arrays, tensors = [], [], None
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        hint = hints[field.name]
        spec = next(
            (m for m in getattr(hint, "__metadata__", ()) if isinstance(m, ArraySpec)), None
        )
        if spec is not None:
            arrays.append((field.name, spec))
        elif hint == NamedTensors:
            tensors = field.name
        else:
            scalars.append((field.name, _SCALAR_CHECKS[hint]))
    return _Layout(cls, tuple(scalars), tuple(arrays), tensors)


_LAYOUTS: dict[str, _Layout] = {
    cls.kind: _layout(cls)
    for cls in vars(messages).values()
    if isinstance(cls, type) and issubclass(cls, Message) and cls is not Message
}


def encode(message: Message) -> list[Frame]:
    """The frames of a message. Arrays must not be changed until the frames are sent.

    Raises TypeError when an array's dtype is not the declared one: a bug of ours, not of a peer.
    """
    layout = _LAYOUTS[message.kind]
    fields: dict[str, Any] = {name: getattr(message, name) for name, _ in layout.scalars}
    descriptors: list[tuple[str, tuple[int, ...]]] = []
    frames: list[Frame] = [b""]
    for name, spec in layout.arrays:
        array = getattr(message, name)
        if spec.dtype is not None and array.dtype.str != spec.dtype:
            raise TypeError(f"{message.kind}.{name} is {array.dtype.str}, declared {spec.dtype}")
        _append_array(array, descriptors, frames)
    if layout.tensors is not None:
        tensors: NamedTensors = getattr(message, layout.tensors)
        fields[layout.tensors] = list(tensors)
        for array in tensors.values():
            _append_array(array, descriptors, frames)
    frames[0] = msgpack.packb((SCHEMA_VERSION, message.kind, fields, descriptors))
    return frames


def _append_array(
    array: npt.NDArray[Any],
    descriptors: list[tuple[str, tuple[int, ...]]],
    frames: list[Frame],
) -> None:
    if array.dtype.str not in DTYPES:
        raise TypeError(f"dtype {array.dtype.str} does not travel; the wire knows {list(DTYPES)}")
    descriptors.append((array.dtype.str, array.shape))
    # An empty array has no buffer that memoryview could cast.
    frames.append(np.ascontiguousarray(array).data.cast("B") if array.size else b"")


def decode(frames: Sequence[Frame]) -> Message:
    """The message in these frames.

    Raises:
        SchemaMismatch: the header is of another schema version.
        MalformedMessage: anything else is not as declared.
    """
    if not frames:
        raise MalformedMessage("a message without frames")
    version, kind, fields, descriptors = _decode_header(frames[0])
    if type(version) is not int or version != SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the peer speaks schema version {reprlib.repr(version)}, this side {SCHEMA_VERSION}: "
            "run the same zapex release on every host"
        )
    layout = _LAYOUTS.get(kind) if type(kind) is str else None
    if layout is None:
        raise MalformedMessage(f"unknown message kind {reprlib.repr(kind)}")
    if type(fields) is not dict or type(descriptors) is not list:
        raise MalformedMessage(f"{kind}: the header is not [version, kind, fields, arrays]")
    if len(frames) != len(descriptors) + 1:
        raise MalformedMessage(
            f"{kind}: {len(descriptors)} arrays announced, {len(frames) - 1} frames came"
        )
    values: dict[str, Any] = {}
    for name, is_valid in layout.scalars:
        value = fields.get(name)
        if not is_valid(value):
            raise MalformedMessage(
                f"{kind}.{name} is missing or of the wrong type: {reprlib.repr(value)}"
            )
        values[name] = value
    if len(fields) != len(layout.scalars) + (layout.tensors is not None):
        raise MalformedMessage(f"{kind}: unknown fields beside {sorted(values)}")
    names = _tensor_names(layout, fields)
    if len(descriptors) != len(layout.arrays) + len(names):
        raise MalformedMessage(f"{kind}: {len(descriptors)} arrays, {len(layout.arrays)} declared")
    arrays = iter(zip(descriptors, frames[1:], strict=True))
    for (name, spec), (descriptor, frame) in zip(layout.arrays, arrays, strict=False):
        values[name] = _decode_array(f"{kind}.{name}", descriptor, frame, spec)
    if layout.tensors is not None:
        spec = ArraySpec(None, None)
        values[layout.tensors] = {
            name: _decode_array(f"{kind}.{name}", descriptor, frame, spec)
            for name, (descriptor, frame) in zip(names, arrays, strict=True)
        }
    return layout.cls(**values)


def _decode_header(frame: Frame) -> tuple[Any, Any, Any, Any]:
    if len(frame) > MAX_HEADER_BYTES:
        raise MalformedMessage(f"a header of {len(frame)} bytes, at most {MAX_HEADER_BYTES}")
    try:
        header = msgpack.unpackb(frame, strict_map_key=True)
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise MalformedMessage("the header is not msgpack") from error
    if type(header) is not list or not header:
        raise MalformedMessage("the header is not a list")
    # The version comes first and is read alone, so that any later layout is recognised as such.
    if type(header[0]) is not int or header[0] != SCHEMA_VERSION:
        return header[0], None, None, None
    if len(header) != 4:
        raise MalformedMessage("the header is not [version, kind, fields, arrays]")
    return header[0], header[1], header[2], header[3]


def _tensor_names(layout: _Layout, fields: dict[str, Any]) -> list[str]:
    if layout.tensors is None:
        return []
    names = fields.get(layout.tensors)
    if type(names) is not list or not all(type(n) is str for n in names):
        raise MalformedMessage(f"{layout.cls.kind}.{layout.tensors} is not a list of names")
    if len(set(names)) != len(names):
        raise MalformedMessage(f"{layout.cls.kind}.{layout.tensors} names a tensor twice")
    return names


def _decode_array(where: str, descriptor: Any, frame: Frame, spec: ArraySpec) -> npt.NDArray[Any]:
    if type(descriptor) is not list or len(descriptor) != 2:
        raise MalformedMessage(f"{where}: an array is announced by [dtype, shape]")
    name, shape = descriptor
    dtype = DTYPES.get(name) if type(name) is str else None
    if dtype is None or (spec.dtype is not None and name != spec.dtype):
        raise MalformedMessage(
            f"{where} has dtype {reprlib.repr(name)}, expected {spec.dtype or 'a number'}"
        )
    if type(shape) is not list or len(shape) > MAX_NDIM:
        raise MalformedMessage(f"{where}: a shape is a list of at most {MAX_NDIM} sizes")
    if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape) or (
        # Numpy counts the bytes of an empty array too, as if its empty axes had one element.
        0 in shape and math.prod(size or 1 for size in shape) >= 1 << 48
    ):
        raise MalformedMessage(f"{where} has an impossible shape {reprlib.repr(shape)}")
    if spec.ndim is not None and len(shape) != spec.ndim:
        raise MalformedMessage(f"{where} has {len(shape)} axes, expected {spec.ndim}")
    # Python integers do not overflow: a huge announced shape is compared, never allocated.
    if math.prod(shape) * dtype.itemsize != len(frame):
        raise MalformedMessage(
            f"{where}: {name} {reprlib.repr(shape)} does not fill {len(frame)} bytes"
        )
    return np.frombuffer(frame, dtype).reshape(shape)
