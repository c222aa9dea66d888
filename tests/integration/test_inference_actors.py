"""Actors that ask an inference process, or wait for one, or have lost it."""

import contextlib
import threading
import time

import numpy as np
import pytest
import zmq

import actor.remote_policy
import learner.head
from actor.loop import run_actor
from common import codec, transport
from common.membership import Membership
from common.messages import ACTING, InferenceRequest, Insert, Join, QValues, Serving
from common.metrics import Telemetry
from common.process import loopback_id
from deploy import presets
from tests.integration.conftest import InProcess
from tests.integration.inference import Served, serve, serving
from tests.integration.runs import result_of, until
from tests.integration.test_roles import Role, Stage, chosen_actions, constant_q, stage


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
