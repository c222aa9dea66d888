"""A subscription to weights that is renewed again and again is never lost."""

import zmq

from actor.weights import WeightsSubscription
from common import transport
from common.rejections import Rejections
from tests.waiting import wait_until

TOPIC = b"evaluation"
RENEWALS = 50


def test_every_renewal_reaches_the_publisher_however_little_time_there_is() -> None:
    # ZeroMQ drops subscriptions that a queue has no room for. If that is the second half of a
    # renewal, nothing comes any more, and an evaluator that once was short of CPU is deaf for ever.
    with zmq.Context() as context:
        publisher, endpoint = transport.bind(context, zmq.XPUB, "tcp://127.0.0.1:0")
        publisher.xpub_verbose = True
        subscription = WeightsSubscription(
            context, endpoint, TOPIC, Rejections("actor_rejected_messages_total")
        )
        events: list[bytes] = []

        def come(count: int) -> bool:
            while (frames := transport.receive_frames(publisher)) is not None:
                events.append(bytes(frames[0]))
            return events.count(b"\x01" + TOPIC) == count

        try:
            wait_until(lambda: come(1), "the subscription is there")
            # Faster than the I/O thread takes them.
            for _ in range(RENEWALS):
                subscription.ask_again()
            wait_until(lambda: come(1 + RENEWALS), "all renewals are there", limit_s=10.0)
        finally:
            subscription.close()
            publisher.close()
