"""The inference process and those who ask it, against a real head."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import zmq

import actor.inference_server
import actor.remote_policy
import learner.head
from actor.inference_client import InferenceClient
from actor.inference_server import InferenceOptions, run_inference_server
from actor.loop import run_actor
from common import codec, transport
from common.errors import ConfigError, WireError
from common.membership import Membership
from common.messages import (
    ACTING,
    Ack,
    InferenceRequest,
    Insert,
    Join,
    Message,
    NamedTensors,
    QValues,
    Rejected,
    Serving,
)
from common.metrics import Telemetry
from common.networks import build_network
from common.process import loopback_id
from common.rejections import Rejections
from common.spec import EnvSpec
from deploy import presets
from tests.integration.conftest import InProcess
from tests.integration.runs import result_of, until
from tests.integration.test_roles import Role, Stage, chosen_actions, constant_q, stage

Array = npt.NDArray[Any]

REJECTIONS = Rejections("actor_rejected_messages_total")

FRAMES = EnvSpec((84, 84), "|u1", 6)
NATURE: dict[str, Any] = {"spec": FRAMES, "network": "nature", "frame_stack": 4}
VECTORS: dict[str, Any] = {"spec": EnvSpec((3,), "<f4", 4), "network": "mlp"}


@dataclass
class Served:
    """A stage with an inference process at a known address."""

    stage: Stage
    endpoint: str
    process: Role

    @contextlib.contextmanager
    def client(self) -> Iterator[InferenceClient]:
        actions = self.stage.manifest.spec.num_actions
        with contextlib.closing(
            InferenceClient(self.stage.context, self.endpoint, actions, REJECTIONS)
        ) as client:
            yield client

    def counters(self) -> dict[str, float]:
        members = self.stage.members("inference")
        return members[0]["values"] if members else {}

    def publish(self, version: int, seed: int, epoch: int = 0) -> NamedTensors:
        """Weights of that seed go out as that version."""
        tensors = random_weights(self.stage, seed)
        self.stage.control.publish(ACTING, epoch, version, tensors)
        return tensors


def serve(s: Stage, bind: str = "inproc://stage-inference") -> Role:
    """Start an inference process, as a thread; it is ended with the stage."""
    options = InferenceOptions(s.head, bind)
    running = Role(lambda stop: run_inference_server(options, s.context, stop, lambda _: None))
    s.roles.callback(running.end)
    return running


@contextlib.contextmanager
def serving(spec: EnvSpec | None = None, **changes: Any) -> Iterator[Served]:
    with stage(spec, **{"inference": "host", "inference_device": "cpu", **changes}) as s:
        yield Served(s, "inproc://stage-inference", serve(s))


def random_weights(s: Stage, seed: int) -> NamedTensors:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(s.manifest.config, s.manifest.spec)
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def one_by_one(s: Stage, weights: NamedTensors, obs: Array) -> npt.NDArray[np.float32]:
    """What the network says to each observation when it is alone."""
    network = build_network(s.manifest.config, s.manifest.spec)
    network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    with torch.no_grad():
        rows = [network(torch.tensor(each[None])) for each in obs]
    values: npt.NDArray[np.float32] = torch.cat(rows).numpy()
    return values


def observations(s: Stage, rows: int, seed: int) -> Array:
    spec, stack = s.manifest.spec, s.manifest.config.frame_stack
    shape = (rows, *([stack] if stack > 1 else []), *spec.obs_shape)
    numbers = np.random.default_rng(seed).integers(0, 256, shape)
    return numbers.astype(spec.dtype)


def answer(client: InferenceClient) -> QValues:
    return until(client.answer, "an answer")


# ----------------------------------------------------------------------------------------- answers


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


# ------------------------------------------------------------------------------------------ actors


def test_actors_act_on_its_values_and_say_whose_version_it_was() -> None:
    with serving(epsilon_base=0.0, epsilon_alpha=0.0) as s:
        for number in range(3):
            s.stage.run(run_actor, num_envs=2, number=number)
        manifest = s.stage.manifest
        for version, q_of_action_1, action in ((1, 1.0, 1), (2, -1.0, 0)):
            s.stage.control.publish(ACTING, 0, version, constant_q(manifest, q_of_action_1))
            blocks = until(lambda v=version: whole_blocks(s.stage, v), f"blocks of {version}")
            actions = [chosen_actions(block, manifest.config.block_length) for block in blocks]
            assert (np.concatenate(actions) == action).all()
        until(lambda: s.counters().get("inference_weights_version") == 2, "the counters")
        # Each actor asked once for each step of its 2 environments.
        assert (
            s.counters()["inference_observations_total"]
            == 2 * s.counters()["inference_requests_total"]
        )


def whole_blocks(s: Stage, version: int) -> list[Insert]:
    """Inserts that three actors acted by one version alone: the first two of each stream may have
    begun before. Empty until there are some of every actor."""
    by_actor: dict[int, list[Insert]] = {}
    for insert in list(s.inserts):
        if insert.weights_version == version:
            by_actor.setdefault(insert.session, []).append(insert)
    enough = [inserts[2:] for inserts in by_actor.values() if len(inserts) > 4]
    return [insert for inserts in enough for insert in inserts] if len(enough) == 3 else []


def test_an_actor_that_waits_is_alive_and_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner.head, "SILENCE_S", 2.5)
    with stage(inference="host") as s:
        waiting = s.run(run_actor)
        until(lambda: s.members("actor"), "the actor to join")
        # Somebody else joins after it and is silent: the head's patience with both is the same.
        socket = transport.connect(s.context, zmq.DEALER, s.head)
        with contextlib.closing(socket):
            transport.send(socket, Join("evaluator", "h", 1, 0, -1, take_over=False, token=1))
            until(lambda: s.status()["lost"], "the silent one to be missed")
        assert s.status()["lost"] == {"evaluator": 1}
        assert s.members("actor")
        assert s.inserts == []
        s.control.stop_members(timeout_s=0.0)
        until(lambda: not waiting.thread.is_alive(), "the end of the actor")


def test_an_actor_without_an_inference_process_computes_by_itself_until_there_is_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(actor.remote_policy, "PATIENCE_S", 0.2)
    with stage(inference="host") as s:
        s.control.publish(ACTING, 0, 4, constant_q(s.manifest, 1.0))
        s.run(run_actor)
        until(lambda: len(s.inserts) > 2, "inserts")
        assert {insert.weights_version for insert in s.inserts} == {4}
        (line,) = [r.getMessage() for r in caplog.records if r.name == "actor.remote_policy"]
        assert line == "this host's inference process is not there: computing Q-values here"
        process = Served(s, "", serve(s))
        until(lambda: process.counters().get("inference_requests_total", 0) > 10, "requests")
        process.process.stop.set()
        until(lambda: not s.members("inference"), "the inference process to leave")
        before = len(s.inserts)
        until(lambda: len(s.inserts) > before + 4, "inserts after it")
        assert {insert.weights_version for insert in s.inserts} == {4}


def test_an_actor_takes_to_a_process_that_answers_again_at_the_same_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It never left the run, as far as the head knows: it was killed, and came back before it was
    missed, or it was stuck."""
    monkeypatch.setattr(actor.remote_policy, "PATIENCE_S", 0.2)
    answers = threading.Event()
    with stage(inference="host") as s:
        s.control.publish(ACTING, 0, 4, constant_q(s.manifest, 0.0))
        stuck = Role(lambda stop: _serve_when(answers, s, stop))
        s.roles.callback(stuck.end)
        until(lambda: s.members("inference"), "the stuck process to join")
        s.run(run_actor)
        until(lambda: len(s.inserts) > 2, "an actor that computes by itself")
        assert {insert.weights_version for insert in s.inserts} == {4}
        answers.set()
        until(lambda: any(i.weights_version == 9 for i in s.inserts), "inserts of version 9")


def _serve_when(answers: threading.Event, s: Stage, stop: threading.Event) -> None:
    """An inference process that gives nobody an answer before that; then zeros, as version 9."""
    socket, endpoint = transport.bind(s.context, zmq.ROUTER, "tcp://127.0.0.1:0")
    membership = Membership(s.context, s.head, "inference")
    try:
        membership.join(time.monotonic, stop)
        membership.send(Serving(membership.welcome.session, endpoint, loopback_id()))
        while not stop.is_set():
            membership.poll(time.monotonic(), Telemetry(dict))
            socket.poll(10)
            while answers.is_set() and (frames := transport.receive_frames(socket)) is not None:
                request = codec.decode(frames[1:])
                assert isinstance(request, InferenceRequest)
                values = np.zeros((len(request.obs), s.manifest.spec.num_actions), np.float32)
                answered = QValues(request.sequence, 9, values)
                transport.send(socket, answered, prefix=(bytes(frames[0]),))
    finally:
        membership.leave("stopped")
        socket.close()


# ------------------------------------------------------------------------------------------- a run


def test_a_run_in_threads_learns_cartpole_with_it(in_process: InProcess) -> None:
    """Random play lasts 22 steps, and the greedy policy of a fresh network 9."""
    config = presets.load("cartpole").model_copy(
        update={
            "inference": "host",
            "actors": 2,
            "target_return": 100.0,
            "eval_episodes": 10,
            "confirm_episodes": 10,
            "total_env_steps": 200_000,
        }
    )
    result = result_of(in_process(config))
    assert result["solved"]
    assert result["eval_return_mean"] >= 100.0
