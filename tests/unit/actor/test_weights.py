"""The subscription to weights while this process, or its head, is slow."""

import numpy as np
import zmq

from actor.weights import WeightsSubscription
from common import transport
from common.messages import Weights
from common.rejections import Rejections
from tests.waiting import wait_until


def test_a_subscription_survives_however_often_it_asks_again() -> None:
    with zmq.Context() as context:
        head, endpoint = transport.bind(context, zmq.XPUB, "tcp://127.0.0.1:0", queue_messages=4)
        head.xpub_verbose = True
        subscription = WeightsSubscription(
            context, endpoint, b"evaluation", Rejections("actor_rejected_messages_total")
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
                transport.send(head, weights, prefix=(b"evaluation",))
                return subscription.latest(10) is not None

            wait_until(heard, f"version {version} arrives", limit_s=10.0)
        subscription.close()
        head.close()
