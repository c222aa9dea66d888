"""That the faults really happen: with one that does not, every promise holds."""

import socket
import time
from collections.abc import Iterator

import pytest

from tests.network.lab import Host, Lab

PORT = 7000
PATIENCE_S = 30.0
MISSED_S = 0.6
"""After which a datagram that nothing delays is taken for lost."""


class Line:
    """Datagrams between two hosts, either way."""

    def __init__(self, here: Host, there: Host) -> None:
        self._ends = {}
        for host, other in ((here, there), (there, here)):
            with host.entered():
                self._ends[host] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._ends[host].bind((host.address, PORT))
            self._ends[host].connect((other.address, PORT))
            # The sender must not wait for a narrow line, nor lose what is still in its own queue.
            self._ends[host].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._other = {here: there, there: here}

    def takes_s(self, sender: Host) -> float:
        """How long a datagram of that host is under way."""
        receiver = self._ends[self._other[sender]]
        receiver.settimeout(PATIENCE_S)
        since_s = time.monotonic()
        self._ends[sender].send(b"?")
        receiver.recv(2_000)
        return time.monotonic() - since_s

    def arrive(self, sender: Host, count: int = 1) -> int:
        """Of so many datagrams of that host."""
        receiver = self._ends[self._other[sender]]
        receiver.settimeout(MISSED_S)
        arrived = 0
        for _ in range(count):
            self._ends[sender].send(b"?")
        try:
            while arrived < count:
                receiver.recv(2_000)
                arrived += 1
        except TimeoutError:
            pass
        return arrived

    def flood(self, sender: Host, size: int, count: int) -> float:
        """Bytes per second that arrive, of so many datagrams that are sent at once."""
        receiver = self._ends[self._other[sender]]
        receiver.settimeout(MISSED_S)
        since_s = now_s = time.monotonic()
        for _ in range(count):
            self._ends[sender].send(bytes(size))
        arrived = 0
        try:
            while True:
                receiver.recv(2_000)
                arrived += size
                now_s = time.monotonic()
        except TimeoutError:
            return arrived / (now_s - since_s)

    def close(self) -> None:
        for end in self._ends.values():
            end.close()


@pytest.fixture
def hosts(lab: Lab) -> tuple[Host, Host]:
    """An ordinary one and one on a wire."""
    return lab.host(), lab.host(wired=True)


@pytest.fixture
def line(hosts: tuple[Host, Host]) -> Iterator[Line]:
    line = Line(*hosts)
    # The first packets wait for the hosts to find each other.
    line.takes_s(hosts[0])
    yield line
    line.close()


def test_a_delay_is_added_each_way_and_taken_away(hosts: tuple[Host, Host], line: Line) -> None:
    near, far = hosts
    far.delay(200)
    assert line.takes_s(near) >= 0.2
    assert line.takes_s(far) >= 0.2
    far.delay(0)
    assert min(line.takes_s(near) for _ in range(100)) < 0.1


def test_packets_are_lost_each_way(hosts: tuple[Host, Host], line: Line) -> None:
    _, far = hosts
    far.lose(0.5)
    # Of 200, five standard deviations about the mean: 100 ± 5·√(200·½·½) = 100 ± 35.
    for sender in hosts:
        assert 65 <= line.arrive(sender, 200) <= 135
    far.hear()
    for sender in hosts:
        assert line.arrive(sender, 200) == 200


def test_a_cut_line_carries_nothing_and_says_nothing(hosts: tuple[Host, Host], line: Line) -> None:
    near, far = hosts
    far.cut()
    assert (line.arrive(near), line.arrive(far)) == (0, 0)
    far.rejoin()
    assert (line.arrive(near), line.arrive(far)) == (1, 1)


def test_whoever_is_deaf_is_still_heard(hosts: tuple[Host, Host], line: Line) -> None:
    near, far = hosts
    far.deafen()
    assert (line.arrive(near), line.arrive(far)) == (0, 1)
    far.hear()
    assert (line.arrive(near), line.arrive(far)) == (1, 1)


def test_a_pipe_is_as_narrow_as_it_is_told(hosts: tuple[Host, Host], line: Line) -> None:
    near, far = hosts
    far.narrow(100_000)
    for sender in hosts:
        # The first 32 kB come at once, the last of 72 kB after 0.4 s.
        assert line.flood(sender, size=1_000, count=80) < 250_000
    far.narrow(None)
    assert line.arrive(near, 100) == 100
