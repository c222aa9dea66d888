"""A process of its own: a subscriber that is busy while its queue fills up and its publisher goes,
and reads again when there is another publisher."""

from contextlib import closing

import zmq

from common import transport
from tests.tcp_bytes import Carried, carried_by_port, port_of
from tests.waiting import wait_until

QUEUE, SENT = 4, 40
LARGE = bytes(1 << 20)


def main() -> None:
    transport.PROBE_PERIOD_S = 1
    with zmq.Context() as context:
        publisher, endpoint = transport.bind(context, zmq.XPUB, "tcp://127.0.0.1:0")
        subscriber = transport.connect(context, zmq.SUB, endpoint, queue_messages=QUEUE)
        witness, witnessed = transport.bind(context, zmq.ROUTER, "tcp://127.0.0.1:0")
        pinging = transport.connect(context, zmq.DEALER, witnessed)
        with closing(subscriber), closing(witness), closing(pinging):
            subscriber.subscribe(b"")
            publisher.recv()
            for _ in range(SENT):
                publisher.send(LARGE)
            _wait_until_full(port_of(endpoint), port_of(witnessed))
            publisher.close(linger=0)
            # Had the subscriber pinged, it would have done so by now: another socket has.
            for _ in range(3):
                _wait_for_a_ping(port_of(witnessed))
            publisher, _ = transport.bind(context, zmq.XPUB, endpoint)
            with closing(publisher):
                wait_until(
                    lambda: _hears(subscriber, publisher), "the subscriber hears the new one"
                )
    print("went on")


def _hears(subscriber: "zmq.Socket[bytes]", publisher: "zmq.Socket[bytes]") -> bool:
    """Whether a word of the new publisher came behind what was queued of the old one."""
    if publisher.poll(0):
        publisher.recv()
        publisher.send(b"new")
    return bool(subscriber.poll(0)) and subscriber.recv() == b"new"


def _wait_until_full(port: int, witnessed: int) -> None:
    """Until the subscriber's process reads no more: it has not for as long as between two pings."""

    def received() -> int:
        return _carried(port).received

    while True:
        before = received()
        _wait_for_a_ping(witnessed)
        if received() == before > QUEUE * len(LARGE):
            return


def _wait_for_a_ping(port: int) -> None:
    before = _carried(port).sent
    wait_until(lambda: _carried(port).sent > before, "the other socket has pinged")


def _carried(port: int) -> Carried:
    return carried_by_port().get(port, Carried())


if __name__ == "__main__":
    main()
