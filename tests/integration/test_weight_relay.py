"""A relay between a head and an actor, each the real thing."""

import contextlib
import threading
from types import SimpleNamespace
from typing import cast

import numpy as np
import zmq

from actor.loop import run_actor
from actor.options import MemberOptions
from actor.weight_relay import _WeightRelay, run_weight_relay
from actor.weights import WeightsSubscription
from common import codec, transport
from common.membership import Membership
from common.messages import ACTING, Ack, Message, Serving, Weights
from common.metrics import Telemetry
from common.rejections import Rejections
from common.subscriptions import bind_publisher
from tests.integration.runs import until
from tests.integration.test_roles import Role, Stage, constant_q, stage


def relay(s: Stage, bind: str = "inproc://stage-relay") -> Role:
    """Start one, as a thread; it is ended with the stage."""
    options = MemberOptions(s.head, bind)
    running = Role(lambda stop: run_weight_relay(options, s.context, stop, lambda _: None))
    s.roles.callback(running.end)
    return running


def relayed(s: Stage) -> dict[str, float]:
    members = s.members("relay")
    values: dict[str, float] = members[0]["values"] if members else {}
    return values


def test_an_actor_acts_on_what_a_relay_passes_on_and_on_the_heads_own_when_it_is_gone() -> None:
    with stage() as s:
        s.control.publish(ACTING, 0, 1, constant_q(s.manifest, 0.0))
        running = relay(s)
        until(lambda: relayed(s).get("relay_weights_version") == 1.0, "the relay to have a version")
        s.run(run_actor)
        until(lambda: [i for i in s.inserts if i.weights_version == 1], "acting on version 1")
        s.control.publish(ACTING, 0, 2, constant_q(s.manifest, 0.0))
        until(lambda: [i for i in s.inserts if i.weights_version == 2], "acting on version 2")
        until(lambda: relayed(s).get("relay_versions_total") == 2.0, "both to be counted")
        running.end()
        s.control.publish(ACTING, 0, 3, constant_q(s.manifest, 0.0))
        until(lambda: [i for i in s.inserts if i.weights_version == 3], "acting on version 3")


def test_who_subscribes_late_gets_the_newest_version_as_it_was_sent() -> None:
    with stage() as s:
        tensors = constant_q(s.manifest, 1.0)
        s.control.publish(ACTING, 3, 7, tensors)
        relay(s)
        until(lambda: relayed(s).get("relay_weights_version") == 7.0, "the relay to have a version")
        for _ in range(2):
            late = WeightsSubscription(
                s.context,
                "inproc://stage-relay",
                ACTING,
                Rejections("actor_rejected_messages_total"),
            )
            with contextlib.closing(late):
                weights = until(lambda late=late: late.latest(20), "the weights")
            assert (weights.epoch, weights.version) == (3, 7)
            assert weights.tensors.keys() == tensors.keys()
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(weights.tensors[name], tensor)


class MadHead:
    """Sends what the test wants to, in the place of a membership and the head's weights."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.socket, self.weights_endpoint = transport.bind(context, zmq.XPUB, "inproc://mad-head")
        self.joins = self.contacts = 1
        self.stop_requested = False
        self.welcome = SimpleNamespace(session=1)
        self.rejections = Rejections("relay_rejected_messages_total")
        self.values: dict[str, float] = {}
        self.heard: list[Message] = []

    def poll(self, now_s: float, telemetry: Telemetry) -> None:
        self.values, _ = telemetry.snapshot()

    def send(self, message: Message) -> bool:
        self.heard.append(message)
        return True


def test_what_is_no_version_is_counted_and_not_passed_on() -> None:
    with zmq.Context() as context:
        head = MadHead(context)
        outgoing, endpoint = bind_publisher(context, "inproc://relay")
        stop = threading.Event()
        relay = _WeightRelay(context, cast(Membership, head), outgoing, stop)
        running = Role(lambda _: relay.run(endpoint, lambda _: None))
        socket = transport.connect(context, zmq.SUB, endpoint)
        try:
            socket.subscribe(ACTING)
            assert until(lambda: transport.receive_frames(head.socket), "its subscription")
            version = Weights(0, 1, {"w": np.ones(2, np.float32)})
            for frames in ([b"nonsense"], codec.encode(Ack(1, 2)), codec.encode(version)):
                head.socket.send_multipart([ACTING, *frames])
            frames = until(lambda: transport.receive_frames(socket), "what is passed on")
            assert isinstance(codec.decode(frames[1:]), Weights)
            until(lambda: head.values.get("relay_versions_total") == 1, "one version counted")
            assert head.values["relay_rejected_messages_total"] == 2
        finally:
            stop.set()
            running.end()
            relay.close()
            for each in (socket, outgoing, head.socket):
                each.close(linger=0)


def test_a_relay_that_joins_again_says_again_where_it_is() -> None:
    """The version of the new head may have come before its welcome: it is asked for again."""
    with zmq.Context() as context:
        head = MadHead(context)
        head.socket.xpub_verbose = True
        outgoing, endpoint = bind_publisher(context, "inproc://relay")
        stop = threading.Event()
        relay = _WeightRelay(context, cast(Membership, head), outgoing, stop)
        became_ready: list[str] = []
        running = Role(lambda _: relay.run(endpoint, became_ready.append))
        try:
            for session, version in ((1, 9), (2, 3)):
                until(lambda: transport.receive_frames(head.socket), "its subscription")
                weights = codec.encode(Weights(0, version, {"w": np.ones(2, np.float32)}))
                head.socket.send_multipart([ACTING, *weights])
                until(lambda n=session: len(head.heard) == n, "it says where it is")
                said = head.heard[-1]
                assert isinstance(said, Serving)
                assert (said.session, said.endpoint) == (session, endpoint)
                head.welcome = SimpleNamespace(session=2)
                head.joins = head.contacts = 2
            assert became_ready == [endpoint]
            until(lambda: head.values.get("relay_weights_version") == 3, "the older version")
        finally:
            stop.set()
            running.end()
            relay.close()
            for each in (outgoing, head.socket):
                each.close(linger=0)


def test_a_stranger_at_the_relay_is_counted_and_the_others_go_on() -> None:
    with stage() as s:
        s.control.publish(ACTING, 1, 5, constant_q(s.manifest, 0.0))
        relay(s)
        until(lambda: relayed(s).get("relay_weights_version") == 5.0, "the relay to have a version")
        honest, stranger = (
            transport.connect(s.context, zmq.SUB, "inproc://stage-relay") for _ in range(2)
        )
        with contextlib.closing(honest), contextlib.closing(stranger):
            stranger.subscribe(b"a topic of my own")
            until(lambda: relayed(s).get("relay_rejected_messages_total") == 1.0, "it is counted")
            honest.subscribe(ACTING)
            until(lambda: transport.receive_frames(honest), "version 5")


def test_an_older_version_than_the_newest_is_not_passed_on() -> None:
    with stage() as s:
        s.control.publish(ACTING, 1, 5, constant_q(s.manifest, 0.0))
        relay(s)
        until(lambda: relayed(s).get("relay_weights_version") == 5.0, "the relay to have a version")
        socket = transport.connect(s.context, zmq.SUB, "inproc://stage-relay")
        with contextlib.closing(socket):
            socket.subscribe(ACTING)
            until(lambda: transport.receive_frames(socket), "version 5")
            s.control.publish(ACTING, 0, 9, constant_q(s.manifest, 0.0))
            s.control.publish(ACTING, 1, 6, constant_q(s.manifest, 0.0))
            frames = until(lambda: transport.receive_frames(socket), "version 6")
        message = codec.decode(frames[1:])
        assert isinstance(message, Weights)
        assert (message.epoch, message.version) == (1, 6)
