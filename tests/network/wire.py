"""A wire between two namespaces that takes its time: TAP devices, and this process between them.

Where the kernel has no netem, packets can be delayed so: TCP sees the round trip that it would see
on a long line, from its handshake on. Reads the delay of each way in ms, a line for each change.

    python -m tests.network.wire NAMESPACE DEVICE NAMESPACE DEVICE
"""

import collections
import fcntl
import os
import select
import struct
import sys
import time
from pathlib import Path

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_FRAME_BYTES = 65_536


def main(words: list[str]) -> None:
    ends = [_tap(words[0], words[1]), _tap(words[2], words[3])]
    print("ready", flush=True)
    _carry(ends)


def _tap(namespace: str, device: str) -> int:
    """A new TAP device of a namespace; this process stays there."""
    from tests.network.lab import enter_network

    # Another process's mounts may hide it; the file itself is the same everywhere.
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    os.close(tap)
    with Path(f"/run/netns/{namespace}").open("rb") as network:
        enter_network(network.fileno())
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TAP | _IFF_NO_PI))
    return tap


def _carry(ends: list[int]) -> None:
    delay_s = 0.0
    under_way: collections.deque[tuple[float, int, bytes]] = collections.deque()
    """When due, where to, what: in the order in which they came."""
    while True:
        now_s = time.monotonic()
        timeout_s = max(under_way[0][0] - now_s, 0.0) if under_way else None
        readable, _, _ = select.select([*ends, sys.stdin], [], [], timeout_s)
        now_s = time.monotonic()
        for source in readable:
            if source is sys.stdin:
                line = os.read(sys.stdin.fileno(), 64).decode().split()
                if not line:
                    return
                delay_s = float(line[-1]) / 1e3
            else:
                frame = os.read(source, _FRAME_BYTES)
                target = ends[1] if source == ends[0] else ends[0]
                under_way.append((now_s + delay_s, target, frame))
        while under_way and under_way[0][0] <= now_s:
            _, target, frame = under_way.popleft()
            try:
                os.write(target, frame)
            except BlockingIOError:
                continue  # Its queue is full: a wire does not wait.
            except OSError:
                continue  # The device is down.


if __name__ == "__main__":
    main(sys.argv[1:])
