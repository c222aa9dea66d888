"""The bytes of every message as text: `python -m tests.contract.regenerate` writes `golden.txt`.

Whoever runs it has changed the wire, and raises SCHEMA_VERSION in `common/messages.py` with it.
"""

from pathlib import Path

import msgpack

from common import codec
from common.messages import SCHEMA_VERSION
from tests.contract.examples import EXAMPLES

GOLDEN = Path(__file__).with_name("golden.txt")
BYTES_PER_LINE = 32


def golden_text() -> str:
    """A paragraph for each message: its kind, and its frames in hexadecimal, each below what it
    says."""
    lines = [
        f"# Every message of schema version {SCHEMA_VERSION}, byte by byte; do not edit.",
        "# Written by: python -m tests.contract.regenerate",
    ]
    for message in EXAMPLES:
        header, *arrays = codec.encode(message)
        version, kind, fields, descriptors = msgpack.unpackb(header)
        lines += ["", kind, f"  header: version {version}, fields {fields}", *hex_lines(header)]
        for (dtype, shape), frame in zip(descriptors, arrays, strict=True):
            lines += [f"  array: {dtype} {shape}", *hex_lines(frame)]
    return "\n".join(lines) + "\n"


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
