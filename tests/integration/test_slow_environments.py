"""Environments whose calls take longer than the head's patience with a member that is silent."""

import multiprocessing
import threading
import time

import pytest
import zmq

import common.membership
import learner.head
from actor.evaluator import run_evaluator
from actor.loop import run_actor
from actor.options import MemberOptions
from common.messages import ACTING, EVALUATION
from common.spec import EnvSpec
from tests.integration.runs import until
from tests.integration.test_roles import Stage, constant_q, stage

SILENCE_S, HEARTBEAT_PERIOD_S = 2.0, 0.2
LONG_S = 3.0
"""Longer than the head waits."""
SLOW = "tests.integration.environments:Slow-v0"
SPEC = EnvSpec((2,), "<f4", 2)
ONE_EACH = {"env": SLOW, "envs_per_actor": 1, "block_length": 2, "n_step": 1, "eval_episodes": 1}


def play(s: Stage) -> None:
    """An actor's first blocks and an evaluation."""
    s.control.publish(ACTING, 0, 1, constant_q(s.manifest, 1.0))
    s.control.publish(EVALUATION, 0, 7, constant_q(s.manifest, 1.0))
    s.run(run_actor)
    s.run(run_evaluator)
    # Blocks of two steps, the fifth of which is slow.
    until(lambda: len(s.inserts) >= 3, "blocks from before and after the slow step")
    (result,) = until(s.control.take_evaluations, "the evaluation")
    assert result.episode_return.tolist() == [10.0]


@pytest.fixture(autouse=True, scope="module")
def _compiled() -> None:
    """A process that compiles its kernels is silent as well."""
    with stage(SPEC, **ONE_EACH) as s:
        play(s)


@pytest.fixture(autouse=True)
def _impatience(_compiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner.head, "SILENCE_S", SILENCE_S)
    monkeypatch.setattr(common.membership, "HEARTBEAT_PERIOD_S", HEARTBEAT_PERIOD_S)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_whoever_makes_resets_and_steps_slowly_stays_in_the_run(vectorization: str) -> None:
    slow = {"env_kwargs": {"delay_s": LONG_S, "step_s": LONG_S}, "vectorization": vectorization}
    with stage(SPEC, **ONE_EACH, **slow, env_step_timeout=60.0, env_make_timeout=5.0) as s:
        play(s)
        assert s.status()["lost"] == {}
        assert len({insert.session for insert in s.inserts}) == 1
        assert [i.sequence for i in s.inserts[:3]] == [0, 1, 2]


def _act(head: str) -> None:
    common.membership.HEARTBEAT_PERIOD_S = HEARTBEAT_PERIOD_S
    with zmq.Context() as context:
        run_actor(MemberOptions(head), context, threading.Event(), lambda _: None)


def test_one_that_is_killed_in_a_slow_step_is_missed_as_soon_as_any_other() -> None:
    slow = {"env_kwargs": {"step_s": 3_600.0}, "env_step_timeout": 3_600.0, "env_make_timeout": 5.0}
    with stage(SPEC, "tcp://127.0.0.1:", **ONE_EACH, **slow) as s:
        s.control.publish(ACTING, 0, 1, constant_q(s.manifest, 1.0))
        actor = multiprocessing.get_context("spawn").Process(target=_act, args=(s.head,))
        actor.start()
        try:
            until(lambda: s.inserts, "steps before the slow one")
            began_s = time.monotonic()
            until(lambda: time.monotonic() > began_s + 2 * SILENCE_S, "longer than the silence")
            assert [m["number"] for m in s.members("actor")] == [0]
            assert s.status()["lost"] == {}
        finally:
            actor.kill()
            actor.join()
        # Whatever the environment's time: 3,600 s are longer than this waits.
        until(lambda: not s.members("actor"), "the head to miss it")
        assert s.status()["lost"] == {"actor": 1}
