"""Messages to frames and back.

    frame 0      msgpack [SCHEMA_VERSION, kind, {scalar fields}, descriptors]
    frame 1      the arrays of up to PACKED_BYTES each, one after the other, each padded to 8 bytes
    frame 2...   one raw buffer for each larger array

Arrays are C-ordered and little-endian and come in the order of declaration; frames that would hold
nothing are left out. The descriptors are msgpack once more, [[dtype, shape], ...], as a string of
bytes: one message mostly has the same as the one before, and what they mean is looked up by them.
A larger array may be compressed: its descriptor is [dtype, shape, method].

Small arrays share a frame because a frame costs more than copying one; large ones are not copied
(an outgoing frame is a view of the array, a decoded array one of the frame). Nothing here executes
or unpickles anything, and everything that can be wrong with bytes from a stranger ends in
`MalformedMessage` or `SchemaMismatch`: whatever a decoded message claims about its arrays' sizes,
their frames were that long. Only a compressed array's data is not looked at before it is unpacked.
"""

import dataclasses
import math
import reprlib
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from common import messages
from common.compression import COMPRESSIBLE, METHODS, Array, CompressedArray
from common.errors import MalformedMessage, Reason, SchemaMismatch
from common.messages import SCHEMA_VERSION, ArraySpec, Message, NamedTensors

Frame = bytes | bytearray | memoryview

MAX_HEADER_BYTES = 1 << 20
MAX_NDIM = 8
PACKED_BYTES = 64 << 10
"""Larger arrays have a frame of their own."""
MAX_REMEMBERED = 1_000
"""Descriptors, of those sent and of those received; strangers who send ever other shapes gain
nothing by it."""
MAX_REMEMBERED_BYTES = 4 << 10
"""Longer descriptors are read anew each time: those of a network of a hundred tensors are shorter,
and MAX_REMEMBERED times what a stranger can put into a header is not to be kept."""
MAX_TENSORS = 10_000
"""In a message: an array of no elements costs its sender 7 bytes and its receiver 200."""
_ALIGNMENT = 8
_PADDING = [bytes(-size % _ALIGNMENT) for size in range(_ALIGNMENT)]
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


_ANY = ArraySpec(None, None)
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
    arrays: list[Array] = [getattr(message, name) for name, _ in layout.arrays]
    if layout.tensors is not None:
        tensors: NamedTensors = getattr(message, layout.tensors)
        fields[layout.tensors] = list(tensors)
        arrays += tensors.values()
    packed: list[bytes] = []
    large: list[Frame] = []
    for array in arrays:
        if isinstance(array, CompressedArray):
            large.append(array.data.data)
        elif array.nbytes <= PACKED_BYTES:
            packed.append(array.tobytes())
            if array.nbytes % _ALIGNMENT:
                packed.append(_PADDING[array.nbytes % _ALIGNMENT])
        else:
            large.append(np.ascontiguousarray(array).data.cast("B"))
    header = msgpack.packb((SCHEMA_VERSION, message.kind, fields, _announcement(layout, arrays)))
    shared = b"".join(packed)
    return [header, shared, *large] if shared else [header, *large]


_ANNOUNCEMENTS: dict[tuple[Any, ...], bytes] = {}


def _announcement(layout: _Layout, arrays: list[Array]) -> bytes:
    """The descriptors of a message's arrays. Raises TypeError as `encode`."""
    key = (
        layout.cls.kind,
        *[(a.dtype, a.shape, type(a) is CompressedArray and a.method) for a in arrays],
    )
    announced = _ANNOUNCEMENTS.get(key)
    if announced is None:
        announced = _announce(layout, arrays)
        if len(_ANNOUNCEMENTS) >= MAX_REMEMBERED:
            _ANNOUNCEMENTS.clear()
        _ANNOUNCEMENTS[key] = announced
    return announced


def _announce(layout: _Layout, arrays: list[Array]) -> bytes:
    for (name, spec), array in zip(layout.arrays, arrays, strict=False):
        if spec.dtype is not None and array.dtype.str != spec.dtype:
            raise TypeError(f"{layout.cls.kind}.{name} is {array.dtype.str}, declared {spec.dtype}")
    descriptors: list[tuple[Any, ...]] = []
    for array in arrays:
        dtype = array.dtype.str
        if dtype not in DTYPES:
            raise TypeError(f"dtype {dtype} does not travel; the wire knows {list(DTYPES)}")
        method = (array.method,) if isinstance(array, CompressedArray) else ()
        descriptors.append((dtype, array.shape, *method))
    packed: bytes = msgpack.packb(descriptors) if descriptors else b""
    return packed


def decode(frames: Sequence[Frame]) -> Message:
    """The message in these frames.

    Raises:
        SchemaMismatch: the header is of another schema version.
        MalformedMessage: anything else is not as declared.
    """
    if not frames:
        raise MalformedMessage("a message without frames")
    kind, fields, descriptors = _decode_header(frames[0])
    layout = _LAYOUTS.get(kind) if type(kind) is str else None
    if layout is None:
        raise MalformedMessage(f"unknown message kind {reprlib.repr(kind)}", Reason.UNKNOWN_KIND)
    if type(fields) is not dict or type(descriptors) is not bytes:
        raise MalformedMessage(f"{kind}: the header is not [version, kind, fields, arrays]")
    values: dict[str, Any] = {}
    for name, is_valid in layout.scalars:
        value = fields.get(name)
        if not is_valid(value):
            raise MalformedMessage(
                f"{kind}.{name} is missing or of the wrong type: {reprlib.repr(value)}",
                Reason.FIELD,
            )
        values[name] = value
    if len(fields) != len(layout.scalars) + (layout.tensors is not None):
        raise MalformedMessage(f"{kind}: unknown fields beside {sorted(values)}", Reason.FIELD)
    names = _tensor_names(layout, fields)
    plan = _plan(layout, descriptors, len(names))
    arrays = plan.arrays(frames)
    for (name, _), array in zip(layout.arrays, arrays, strict=False):
        values[name] = array
    if layout.tensors is not None:
        tensors = arrays[len(layout.arrays) :]
        values[layout.tensors] = dict(zip(names, tensors, strict=True))
    return layout.cls(**values)


def _decode_header(frame: Frame) -> tuple[Any, Any, Any]:
    """Kind, fields and arrays, of whatever type. Raises as `decode`."""
    if len(frame) > MAX_HEADER_BYTES:
        raise MalformedMessage(
            f"a header of {len(frame)} bytes, at most {MAX_HEADER_BYTES}", Reason.TOO_LARGE
        )
    header = _unpack(frame)
    if type(header) is not list or not header:
        raise MalformedMessage("the header is not a list")
    # The version comes first and is read alone, so that any later layout is recognised as such.
    version = header[0]
    if type(version) is not int or version != SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the peer speaks schema version {reprlib.repr(version)}, this side {SCHEMA_VERSION}: "
            "run the same zapex release on every host"
        )
    if len(header) != 4:
        raise MalformedMessage("the header is not [version, kind, fields, arrays]")
    return header[1], header[2], header[3]


def _unpack(data: Frame) -> Any:
    try:
        return msgpack.unpackb(data, strict_map_key=True)
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise MalformedMessage("the header is not msgpack") from error


def _tensor_names(layout: _Layout, fields: dict[str, Any]) -> list[str]:
    if layout.tensors is None:
        return []
    names = fields.get(layout.tensors)
    if type(names) is not list or not all(type(n) is str for n in names):
        raise MalformedMessage(
            f"{layout.cls.kind}.{layout.tensors} is not a list of names", Reason.FIELD
        )
    if len(names) > MAX_TENSORS:
        raise MalformedMessage(
            f"{layout.cls.kind}.{layout.tensors} names {len(names)} tensors, at most {MAX_TENSORS}",
            Reason.TOO_LARGE,
        )
    if len(set(names)) != len(names):
        raise MalformedMessage(
            f"{layout.cls.kind}.{layout.tensors} names a tensor twice", Reason.FIELD
        )
    return names


class _Place(typing.NamedTuple):
    """An array, and where its bytes are."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int
    offset: int
    """In the shared frame; −1: in a frame of its own."""
    method: str | None
    """By which it is compressed."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """How a message's arrays lie in its frames."""

    kind: str
    places: list[_Place]
    shared_bytes: int
    own_frames: int

    def arrays(self, frames: Sequence[Frame]) -> list[Array]:
        """Views of the frames. Raises MalformedMessage where they are not as announced."""
        shared: Frame = b""
        large = 1
        if self.shared_bytes:
            shared = frames[1] if len(frames) > 1 else b""
            if len(shared) != self.shared_bytes:
                raise MalformedMessage(
                    f"{self.kind}: {self.shared_bytes} bytes announced, {len(shared)} came"
                )
            large = 2
            if not np.frombuffer(shared, np.int64, 1).flags.aligned:
                # ZeroMQ hands out parts of its receive buffer; bytes are aligned.
                shared = bytes(shared)
        expected = large + self.own_frames
        if len(frames) != expected:
            raise MalformedMessage(f"{self.kind}: {expected} frames announced, {len(frames)} came")
        arrays: list[Array] = []
        for dtype, shape, nbytes, offset, method in self.places:
            if offset >= 0:
                arrays.append(np.ndarray(shape, dtype, shared, offset))
                continue
            frame = frames[large]
            large += 1
            if method is not None:
                data = np.frombuffer(frame, np.uint8)
                arrays.append(CompressedArray(dtype, shape, nbytes, method, data))
            elif nbytes != len(frame):
                raise MalformedMessage(
                    f"{self.kind}: {dtype} {shape} does not fill {len(frame)} bytes", Reason.SHAPE
                )
            else:
                arrays.append(np.frombuffer(frame, dtype).reshape(shape))
        return arrays


_PLANS: dict[tuple[str, bytes, int], _Plan] = {}


def _plan(layout: _Layout, descriptors: bytes, tensors: int) -> _Plan:
    kind = layout.cls.kind
    plan = _PLANS.get((kind, descriptors, tensors))
    if plan is None:
        plan = _make_plan(layout, descriptors, tensors)
        if len(descriptors) > MAX_REMEMBERED_BYTES:
            return plan
        if len(_PLANS) >= MAX_REMEMBERED:
            _PLANS.clear()
        _PLANS[kind, descriptors, tensors] = plan
    return plan


def _make_plan(layout: _Layout, descriptors: bytes, tensors: int) -> _Plan:
    kind = layout.cls.kind
    announced = _unpack(descriptors) if descriptors else []
    specs = [spec for _, spec in layout.arrays] + [_ANY] * tensors
    if type(announced) is not list or len(announced) != len(specs):
        raise MalformedMessage(
            f"{kind}: {len(specs)} arrays are declared, not those announced", Reason.SHAPE
        )
    places: list[_Place] = []
    offset = 0
    for descriptor, spec in zip(announced, specs, strict=True):
        dtype, shape, method = _announced(kind, descriptor, spec)
        # Python integers do not overflow: a huge announced shape is compared, never allocated.
        nbytes = math.prod(shape) * dtype.itemsize
        if method is not None or nbytes > PACKED_BYTES:
            places.append(_Place(dtype, shape, nbytes, -1, method))
        else:
            places.append(_Place(dtype, shape, nbytes, offset, None))
            offset += nbytes + -nbytes % _ALIGNMENT
    return _Plan(kind, places, offset, sum(place.offset < 0 for place in places))


def _announced(
    kind: str, descriptor: Any, spec: ArraySpec
) -> tuple[np.dtype[Any], tuple[int, ...], str | None]:
    """dtype, shape and compression of an array. Raises MalformedMessage."""
    if type(descriptor) is not list or len(descriptor) not in (2, 3):
        raise MalformedMessage(f"{kind}: an array is announced by [dtype, shape]", Reason.SHAPE)
    name, shape = descriptor[0], descriptor[1]
    dtype = DTYPES.get(name) if type(name) is str else None
    if dtype is None or (spec.dtype is not None and name != spec.dtype):
        raise MalformedMessage(
            f"{kind}: an array has dtype {reprlib.repr(name)}, expected {spec.dtype or 'a number'}",
            Reason.DTYPE,
        )
    if type(shape) is not list or len(shape) > MAX_NDIM:
        raise MalformedMessage(
            f"{kind}: a shape is a list of at most {MAX_NDIM} sizes", Reason.SHAPE
        )
    if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape) or (
        # Numpy counts the bytes of an empty array too, as if its empty axes had one element.
        0 in shape and math.prod(size or 1 for size in shape) >= 1 << 48
    ):
        raise MalformedMessage(
            f"{kind}: an impossible shape {reprlib.repr(shape)}", Reason.TOO_LARGE
        )
    if spec.ndim is not None and len(shape) != spec.ndim:
        raise MalformedMessage(
            f"{kind}: an array has {len(shape)} axes, expected {spec.ndim}", Reason.SHAPE
        )
    method = None
    if len(descriptor) == 3:
        method = descriptor[2]
        if method not in METHODS or name not in COMPRESSIBLE or not spec.may_be_compressed:
            raise MalformedMessage(
                f"{kind}: an array compressed by {reprlib.repr(method)}", Reason.DTYPE
            )
    return dtype, tuple(shape), method
