"""Weights through a pipe that is too narrow for them: fewer versions, each whole, none very old."""

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from actor.weights import WeightsSubscription
from common import transport
from common.config import Config
from common.manifest import Manifest
from common.messages import ACTING, Weights
from common.rejections import Rejections
from common.security import SecureContext, Security
from common.spec import EnvSpec
from learner.control import ControlPlane
from tests.network.lab import Host, Lab
from tests.open_head import open_head

REFUSED = Rejections("actor_rejected_messages_total")
PUBLISH_PERIOD_S = 0.05
MANIFEST = Manifest("r", Config(), EnvSpec((4,), "<f4", 2))


@contextlib.contextmanager
def context_on(host: Host) -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """Whatever is connected through it is on that host."""
    with host.entered():
        context = SecureContext(Security(insecure=True))
        # ZeroMQ's thread begins with the first socket, and stays where it began.
        context.socket(zmq.PAIR).close()
    try:
        yield context
    finally:
        context.destroy(linger=0)


class Published:
    """Versions of `nbytes` from one host, at a steady pace, to several subscribers."""

    def __init__(self, control: ControlPlane, nbytes: int) -> None:
        self._control = control
        self._tensors = {"w": np.ones(nbytes // 4, np.float32)}
        self.published_s: list[float] = []
        """When each version was."""

    def until_arrived(
        self, count: int, slow: WeightsSubscription, *others: WeightsSubscription
    ) -> tuple[list[tuple[float, Weights]], list[int]]:
        """Publish until `slow` got so many versions: when it got which, and how many each of the
        others got meanwhile."""
        arrived: list[tuple[float, Weights]] = []
        elsewhere = [0] * len(others)
        next_s = time.monotonic()
        while len(arrived) < count:
            if time.monotonic() >= next_s:
                next_s += PUBLISH_PERIOD_S
                self._control.publish(ACTING, 0, len(self.published_s), self._tensors)
                self.published_s.append(time.monotonic())
            weights = slow.latest(timeout_ms=10)
            if weights is not None:
                arrived.append((time.monotonic(), weights))
            for i, other in enumerate(others):
                elsewhere[i] += other.latest() is not None
        return arrived, elsewhere


@pytest.fixture
def control(lab: Lab) -> Iterator[ControlPlane]:
    head = lab.host()
    with context_on(head) as context, contextlib.ExitStack() as ends:
        # An address is bound by the thread that asks for it.
        with head.entered():
            opened = open_head(context, f"tcp://{head.address}:5550", MANIFEST)
            control = ends.enter_context(opened)
        yield control


def endpoint(control: ControlPlane) -> str:
    """The weights' address: the next port."""
    address, _, port = control.endpoint.rpartition(":")
    return f"{address}:{int(port) + 1}"


def test_whole_versions_come_through_and_none_from_a_long_queue(
    lab: Lab, control: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A version of 400 kB takes 2 s: longer than a connection may be silent.
    monkeypatch.setattr(transport, "LOST_S", 1)
    monkeypatch.setattr(transport, "PROBE_PERIOD_S", 1)
    near, far = lab.host(), lab.host()
    far.narrow(200_000)
    with context_on(near) as here, context_on(far) as there:
        fast = WeightsSubscription(here, endpoint(control), ACTING, REFUSED)
        slow = WeightsSubscription(there, endpoint(control), ACTING, REFUSED)
        published = Published(control, 400_000)
        arrived, (of_fast,) = published.until_arrived(6, slow, fast)
        for subscription in (fast, slow):
            subscription.close()
    for _, weights in arrived:
        assert weights.tensors["w"].shape == (100_000,)
        assert (weights.tensors["w"] == 1.0).all()
    # One waits behind those that the kernel holds, one or two. With a queue of four, all of the
    # first six had been waiting when the first arrived.
    first_arrived_s, sixth = arrived[0][0], arrived[5][1]
    assert published.published_s[sixth.version] > first_arrived_s
    # The other one got as many as ever: 40 in the time of one, if it has a core to itself.
    assert of_fast > 3 * len(arrived)


@pytest.mark.slow
def test_a_pipe_that_several_share_is_slow_but_not_dead(lab: Lab, control: ControlPlane) -> None:
    """Three actors of one host behind 1 MB/s: the network of the Atari preset, 7 MB in 32 bits,
    takes 20 s to each. With ZeroMQ's heartbeats alone, and 15 s for an answer, their connections
    broke every 20 s, and in a minute two of the three got nothing."""
    far = lab.host()
    far.narrow(1_000_000)
    with context_on(far) as there:
        actors = [WeightsSubscription(there, endpoint(control), ACTING, REFUSED) for _ in range(3)]
        _, elsewhere = Published(control, 6_700_000).until_arrived(3, *actors)
        for actor in actors:
            actor.close()
    assert min(elsewhere) >= 1
