"""What an inference process answers, and what it refuses."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import zmq

import actor.inference_server
from common import transport
from common.errors import ConfigError, WireError
from common.messages import Ack, InferenceRequest, Message, Rejected
from tests.integration.inference import (
    NATURE,
    VECTORS,
    answer,
    observations,
    one_by_one,
    serve,
    serving,
)
from tests.integration.runs import until
from tests.integration.test_roles import stage

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = [
    ("cpu", 1e-5),
    # cuDNN's convolutions of float32 are TF32's: products of 11 bits.
    pytest.param("cuda", 5e-3, marks=NEEDS_CUDA),
]


@pytest.mark.parametrize(("device", "tolerance"), DEVICES)
@pytest.mark.parametrize("kind", [VECTORS, NATURE], ids=["vectors", "stacks of frames"])
@pytest.mark.parametrize("rows", [(1,), (3, 1, 2), (2, 2, 2, 2, 2)])
def test_values_are_the_networks_own_whoever_else_asks_at_the_same_time(
    kind: dict[str, Any], rows: Sequence[int], device: str, tolerance: float
) -> None:
    with serving(**kind, inference_device=device) as s, contextlib.ExitStack() as clients:
        asked = []
        for number, count in enumerate(rows):
            client = clients.enter_context(s.client())
            obs = observations(s.stage, count, seed=number)
            client.ask(obs)
            asked.append((client, obs))
        # All have asked before there are weights: they are answered in one batch.
        weights = s.publish(version=7, seed=1)
        for client, obs in asked:
            answered = answer(client)
            assert answered.version == 7
            expected = one_by_one(s.stage, weights, obs)
            np.testing.assert_allclose(answered.q_values, expected, rtol=tolerance, atol=tolerance)
        until(lambda: s.counters().get("inference_requests_total"), "the counters")
        assert s.counters()["inference_batches_total"] == 1
        assert s.counters()["inference_requests_total"] == len(rows)
        assert s.counters()["inference_observations_total"] == sum(rows)


def test_every_answer_says_which_version_gave_it_and_the_newest_wins() -> None:
    with serving(**VECTORS) as s, s.client() as client:
        obs = observations(s.stage, 5, seed=0)
        weights, seen = {}, set()
        # The third is from before a restart of the learner: it must not come back.
        for epoch, version in ((1, 1), (1, 2), (0, 99), (1, 3)):
            weights[version] = s.publish(version, seed=version, epoch=epoch)
            s.stage.status()

        def answered_by_the_newest() -> bool:
            client.ask(obs)
            answered = answer(client)
            seen.add(answered.version)
            expected = one_by_one(s.stage, weights[answered.version], obs)
            np.testing.assert_allclose(answered.q_values, expected, rtol=1e-4, atol=1e-5)
            return answered.version == 3

        until(answered_by_the_newest, "version 3")
        assert seen <= {1, 2, 3}


def test_a_batch_takes_no_further_request_once_it_is_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actor.inference_server, "MAX_ROWS", 3)
    with serving(**VECTORS) as s, contextlib.ExitStack() as ends:
        clients = [ends.enter_context(s.client()) for _ in range(4)]
        for client in clients:
            client.ask(observations(s.stage, 2, seed=0))
        s.publish(version=1, seed=1)
        for client in clients:
            assert answer(client).q_values.shape == (2, 4)
        until(lambda: s.counters().get("inference_requests_total") == 4, "the counters")
        # 2 observations are fewer than 3, and 4 are not.
        assert s.counters()["inference_batches_total"] == 2


def test_the_answer_to_an_older_request_is_not_taken_for_that_to_the_newest() -> None:
    with serving(**VECTORS) as s, s.client() as client:
        client.ask(observations(s.stage, 2, seed=0))
        client.ask(observations(s.stage, 3, seed=1))
        s.publish(version=1, seed=1)
        assert answer(client).q_values.shape == (3, 4)
        assert client.answer(timeout_ms=50) is None


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (InferenceRequest(5, np.zeros((2, 3), np.float64)), "<f8 (2, 3), expected <f4 ('N', 3)"),
        (InferenceRequest(5, np.zeros((2, 4), np.float32)), "<f4 (2, 4), expected <f4 ('N', 3)"),
        (InferenceRequest(5, np.zeros(3, np.float32)), "<f4 (3,), expected"),
        (InferenceRequest(5, np.zeros((), np.float32)), "<f4 (), expected"),
        (InferenceRequest(5, np.zeros((0, 3), np.float32)), "with N ≥ 1"),
        (InferenceRequest(5, np.full((2, 3), np.nan, np.float32)), "Q-values of NaN"),
        (Ack(1, 2), "does not take 'ack'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_answered_is_rejected_and_counted(message: Message, reason: str) -> None:
    with serving(**VECTORS) as s, s.client() as honest:
        socket = transport.connect(s.stage.context, zmq.DEALER, s.endpoint)
        with contextlib.closing(socket):
            honest.ask(observations(s.stage, 2, seed=0))
            transport.send(socket, message)
            s.publish(version=1, seed=1)
            rejected = until(lambda: transport.receive(socket), "an answer")
            assert isinstance(rejected, Rejected)
            assert rejected.sequence == (5 if isinstance(message, InferenceRequest) else -1)
            assert reason in rejected.reason
        # It cost nobody else anything.
        assert answer(honest).q_values.shape == (2, 4)
        until(
            lambda: s.counters().get("inference_rejected_messages_total") == 1,
            "the rejection to be counted",
        )


def test_bytes_that_are_no_message_are_rejected() -> None:
    with serving(**VECTORS) as s, s.client() as honest:
        socket = s.stage.context.socket(zmq.DEALER)
        with contextlib.closing(socket):
            socket.connect(s.endpoint)
            for frames in ([b""], [b"\xff" * 10], [b"x", b"y", b"z"]):
                socket.send_multipart(frames)
            s.publish(version=1, seed=1)
            for _ in range(3):
                assert isinstance(until(lambda: transport.receive(socket), "an answer"), Rejected)
        honest.ask(observations(s.stage, 1, seed=0))
        assert answer(honest).version == 1


def test_a_rejected_actor_says_why() -> None:
    with serving(**VECTORS) as s, s.client() as client:
        s.publish(version=1, seed=1)
        client.ask(np.zeros((1, 9), np.float32))
        with pytest.raises(WireError, match=r"the inference process rejected .*\(1, 9\)"):
            answer(client)


def test_an_actor_that_vanishes_before_its_answer_costs_nobody_anything() -> None:
    with serving(**VECTORS) as s, s.client() as stays:
        with s.client() as vanishes:
            vanishes.ask(observations(s.stage, 2, seed=0))
        stays.ask(observations(s.stage, 2, seed=0))
        s.publish(version=1, seed=1)
        assert answer(stays).version == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"inference": "actor"}, "this run's actors compute Q-values by themselves"),
        ({"inference": "gpu", "inference_device": "cpu"}, "no GPU here that PyTorch can use"),
        ({"inference": "host", "inference_device": "tpu"}, "inference_device = 'tpu' cannot be"),
    ],
    ids=lambda value: str(value),
)
def test_an_inference_process_that_nobody_can_use_ends_with_the_reason(
    changes: dict[str, Any], reason: str
) -> None:
    with stage(**changes) as s:
        process = serve(s)
        until(lambda: not process.thread.is_alive(), "the end of the inference process")
        failure, process.failure = process.failure, None
        assert isinstance(failure, ConfigError)
        assert reason in str(failure)
