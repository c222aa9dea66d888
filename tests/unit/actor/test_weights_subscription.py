"""A subscription to weights that pauses again and again is never lost, and brings the newest."""

import numpy as np
import zmq

from actor.weights import WeightsSubscription
from common import transport
from common.messages import Weights
from common.rejections import Rejections
from common.subscriptions import bind_publisher
from tests.waiting import wait_until

TOPIC = b"evaluation"
RENEWALS = 50


def test_every_renewal_reaches_the_publisher_however_little_time_there_is() -> None:
    # ZeroMQ drops subscriptions that a queue has no room for. If that is the second half of a
    # renewal, nothing comes any more, and an evaluator that once was short of CPU is deaf for ever.
    with zmq.Context() as context:
        publisher, endpoint = bind_publisher(context, "tcp://127.0.0.1:0")
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
                subscription.pause()
                subscription.resume()
            wait_until(lambda: come(1 + RENEWALS), "all renewals are there", limit_s=10.0)
        finally:
            subscription.close()
            publisher.close()


def test_a_subscription_survives_however_often_it_pauses() -> None:
    with zmq.Context() as context:
        head, endpoint = bind_publisher(context, "tcp://127.0.0.1:0")
        subscription = WeightsSubscription(
            context, endpoint, TOPIC, Rejections("actor_rejected_messages_total")
        )
        for version in range(5):
            # As short evaluations do while nobody gets processor time to send what they asked.
            for _ in range(200):
                subscription.pause()
                subscription.resume()

            def heard(version: int = version) -> bool:
                while transport.receive_frames(head) is not None:
                    pass
                weights = Weights(0, version, {"w": np.zeros(2, np.float32)})
                transport.send(head, weights, prefix=(TOPIC,))
                return subscription.latest(10) is not None

            wait_until(heard, f"version {version} arrives", limit_s=10.0)
        subscription.close()
        head.close()


def test_after_a_pause_the_first_version_to_come_is_the_current_one() -> None:
    with zmq.Context() as context:
        publisher, endpoint = bind_publisher(context, "tcp://127.0.0.1:0")
        subscription = WeightsSubscription(
            context, endpoint, TOPIC, Rejections("actor_rejected_messages_total")
        )

        def publish(version: int) -> None:
            weights = Weights(0, version, {"w": np.zeros(250_000, np.float32)})
            transport.send(publisher, weights, prefix=(TOPIC,))

        def hears(event: bytes) -> bool:
            frames = transport.receive_frames(publisher)
            return frames is not None and bytes(frames[0]) == event + TOPIC

        try:
            wait_until(lambda: hears(b"\x01"), "the subscription is there")
            publish(0)
            first = wait_until(lambda: subscription.latest(10), "a version is there")
            assert first is not None
            assert first.version == 0
            # On their way when it pauses: as many as the queue has room for.
            for version in range(1, 5):
                publish(version)
            subscription.pause()
            wait_until(lambda: hears(b"\x00"), "the pause is known")
            for version in range(5, 30):
                publish(version)
            subscription.resume()
            wait_until(lambda: hears(b"\x01"), "the subscription is there again")
            publish(29)
            newest = wait_until(lambda: subscription.latest(10), "a version is there")
            assert newest is not None
            assert newest.version == 29
        finally:
            subscription.close()
            publisher.close(linger=0)
