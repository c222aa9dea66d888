"""The bytes of every message as text: `python -m tests.contract.regenerate` writes `golden.txt`.

Whoever runs it has changed the wire, and raises SCHEMA_VERSION in `common/messages.py` with it.
"""

import typing
from pathlib import Path

import msgpack

from common import codec
from common.messages import SCHEMA_VERSION, Message, NamedTensors
from tests.contract.examples import EXAMPLES

GOLDEN = Path(__file__).with_name("golden.txt")
BYTES_PER_LINE = 32


def golden_text() -> str:
    """A paragraph for each message: its kind, and its frames in hexadecimal, each below what it
    says: the header, and the one that all arrays share, for in these examples all are small."""
    lines = [
        f"# Every message of schema version {SCHEMA_VERSION}, byte by byte; do not edit.",
        "# Written by: python -m tests.contract.regenerate",
    ]
    for message in EXAMPLES:
        header, *shared = codec.encode(message)
        version, kind, fields, packed = msgpack.unpackb(header)
        lines += ["", kind, f"  header: version {version}, fields {fields}", *hex_lines(header)]
        announced = msgpack.unpackb(packed) if packed else []
        arrays = [
            f"{declared}: {dtype} {shape}"
            for declared, (dtype, shape) in zip(declared_arrays(message), announced, strict=True)
        ]
        for frame in shared:
            lines += [f"  {'; '.join(arrays)}", *hex_lines(frame)]
    return "\n".join(lines) + "\n"


def declared_arrays(message: Message) -> list[str]:
    """Name, dtype and axes of each array, as far as the contract fixes them."""
    declared, tensors = [], []
    for name, hint in typing.get_type_hints(type(message), include_extras=True).items():
        for spec in getattr(hint, "__metadata__", ()):
            ndim = "any" if spec.ndim is None else spec.ndim
            declared.append(f"{name}, declared {spec.dtype or 'any'} of ndim {ndim}")
        if hint == NamedTensors:
            tensors = [f"{name} {tensor}" for tensor in getattr(message, name)]
    return declared + tensors


def hex_lines(frame: codec.Frame) -> list[str]:
    whole = bytes(frame)
    return [
        f"    {whole[i : i + BYTES_PER_LINE].hex(' ')}"
        for i in range(0, len(whole), BYTES_PER_LINE)
    ]


def golden_frames() -> dict[str, list[bytes]]:
    """The frames in `golden.txt` by kind."""
    frames: dict[str, list[bytes]] = {}
    for line in GOLDEN.read_text().splitlines():
        indent = len(line) - len(line.lstrip())
        if not line or line.startswith("#"):
            continue
        if indent == 0:
            current = frames[line] = []
        elif indent == 2:
            current.append(b"")
        else:
            current[-1] += bytes.fromhex(line)
    return frames


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
