"""A wire between two namespaces that takes its time: TAP devices, and this process between them.

Where the kernel has no netem, packets can be delayed so: TCP sees the round trip that it would see
on a long line, from its handshake on. Standard input says the delay of each way, in ms, in a line
for each change, and each is answered by a line when it is in force.

    python -m tests.network.wire NAMESPACE DEVICE NAMESPACE DEVICE
"""

import collections
import contextlib
import fcntl
import os
import select
import struct
import sys
import time
from pathlib import Path

from tests.network.lab import enter_network

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_FRAME_BYTES = 65_536


def main(words: list[str]) -> None:
    one, other = _tap(*words[:2]), _tap(*words[2:])
    print("ready", flush=True)
    _carry(one, other)


def _tap(namespace: str, device: str) -> int:
    """A new TAP device of a namespace; this process stays there."""
    with Path(f"/run/netns/{namespace}").open("rb") as network:
        enter_network(network.fileno())
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TAP | _IFF_NO_PI))
    return tap


def _carry(one: int, other: int) -> None:
    """Until standard input ends."""
    delay_s = 0.0
    to = {one: other, other: one}
    orders = sys.stdin.fileno()
    under_way: collections.deque[tuple[float, int, bytes]] = collections.deque()
    """When due, where to, what: in the order in which they came."""
    while True:
        wait_s = max(under_way[0][0] - time.monotonic(), 0.0) if under_way else None
        readable, _, _ = select.select([one, other, orders], [], [], wait_s)
        now_s = time.monotonic()
        for source in readable:
            if source == orders:
                words = os.read(orders, 64).split()
                if not words:
                    return
                delay_s = float(words[-1]) / 1e3
                print("done", flush=True)
            else:
                under_way.append((now_s + delay_s, to[source], os.read(source, _FRAME_BYTES)))
        while under_way and under_way[0][0] <= now_s:
            _, target, frame = under_way.popleft()
            # A full queue or a device that is down: a wire does not wait, and knows of neither.
            with contextlib.suppress(OSError):
                os.write(target, frame)


if __name__ == "__main__":
    main(sys.argv[1:])
