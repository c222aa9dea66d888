"""Single roles, each against a head and a replay server that the test has in its hands."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zmq

import actor.loop
import learner.head
from actor.evaluator import run_evaluator
from actor.loop import run_actor
from actor.memory_limit import MemoryLimit
from actor.options import MemberOptions
from actor.replay_client import ReplayClient
from common import codec, transport
from common.blocks import RowKind
from common.config import Config
from common.environments import probe_spec
from common.errors import HeadUnreachable, MemoryLimitReached
from common.manifest import Manifest
from common.membership import Membership
from common.messages import ACTING, EVALUATION, Ack, Insert, NamedTensors, Serving
from common.metrics import Telemetry
from common.networks import build_network
from common.spec import EnvSpec
from deploy.status_client import StatusClient
from learner.control import ControlPlane
from tests.integration.runs import TINY, WAIT_S, until
from tests.open_head import open_head

Context = zmq.Context[zmq.Socket[bytes]]
Body = Callable[[threading.Event], Any]


class Role:
    """A thread that runs until `stop` is set; its failure is raised where the role is stopped."""

    def __init__(self, body: Body) -> None:
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(body,))
        self.thread.start()

    def _run(self, body: Body) -> None:
        try:
            body(self.stop)
        except BaseException as error:
            self.failure = error

    def end(self) -> None:
        self.stop.set()
        self.thread.join()
        if self.failure is not None:
            raise self.failure


@dataclass
class Stage:
    """A real head, and a replay server that acknowledges every insert and keeps it."""

    manifest: Manifest
    context: Context
    control: ControlPlane
    head: str
    inserts: list[Insert]
    roles: contextlib.ExitStack

    def run(self, role: Callable[..., None], **options: Any) -> Role:
        """Start a role in a thread; it is ended with the stage."""
        told = MemberOptions(self.head, **options)
        running = Role(lambda stop: role(told, self.context, stop, lambda _: None))
        self.roles.callback(running.end)
        return running

    def members(self, role: str) -> list[dict[str, Any]]:
        return [m for m in self.status()["members"] if m["role"] == role]

    def evaluator_plays(self, version: int) -> bool:
        """Whether the evaluator has said that it took that version."""
        return any(
            m["values"].get("evaluator_weights_version") == version
            for m in self.members("evaluator")
        )

    def status(self) -> dict[str, Any]:
        """`learner.status.RunStatus` as plain data. What was published has gone out by then: the
        head sends it before it answers."""
        with contextlib.closing(StatusClient(self.head, self.context)) as client:
            return until(client.latest, "the head's status")


@contextlib.contextmanager
def stage(
    spec: EnvSpec | None = None, address: str = "inproc://stage-", **changes: Any
) -> Iterator[Stage]:
    """A run of TINY with these changes.

    Args:
        spec: of an environment that nobody will make, or that is slow to.
        address: what those of head and replay server begin with; tcp://127.0.0.1: for roles in
            processes of their own.
    """
    config = Config(**{**TINY, **changes})
    manifest = Manifest("stage", config, spec or probe_spec(config))
    inserts: list[Insert] = []
    with contextlib.ExitStack() as ends:
        context: Context = ends.enter_context(zmq.Context())
        head, replay = (
            (f"{address}{name}" if address.startswith("inproc") else f"{address}0")
            for name in ("head", "replay")
        )
        control = ends.enter_context(open_head(context, head, manifest))
        keeper = Role(lambda stop: _keep_inserts(context, control.endpoint, replay, inserts, stop))
        ends.callback(keeper.end)
        yield Stage(manifest, context, control, control.endpoint, inserts, ends)


def _keep_inserts(
    context: Context, head: str, replay: str, inserts: list[Insert], stop: threading.Event
) -> None:
    socket, endpoint = transport.bind(context, zmq.ROUTER, replay)
    membership = Membership(context, head, "replay_server")
    try:
        membership.join(time.monotonic, stop)
        membership.send(Serving(membership.welcome.session, endpoint))
        while not stop.is_set():
            membership.poll(time.monotonic(), Telemetry(dict))
            socket.poll(10)
            while (frames := transport.receive_frames(socket)) is not None:
                insert = codec.decode(frames[1:])
                assert isinstance(insert, Insert)
                inserts.append(insert)
                acknowledged = Ack(insert.session, insert.sequence)
                transport.send(socket, acknowledged, prefix=(bytes(frames[0]),))
    finally:
        membership.leave("stopped")
        socket.close()


def constant_q(manifest: Manifest, q_of_action_1: float) -> NamedTensors:
    """Weights with which every observation has Q(·, 0) = 0 − q/2 and Q(·, 1) = q − q/2: zeros, but
    for the bias of the second advantage (row 0 of the head is the state's value)."""
    network = build_network(manifest.config, manifest.spec)
    tensors: dict[str, npt.NDArray[Any]] = {
        name: np.zeros(tuple(tensor.shape), np.float32)
        for name, tensor in network.state_dict().items()
    }
    tensors["head.bias"][2] = q_of_action_1
    return tensors


def chosen_actions(insert: Insert, length: int) -> npt.NDArray[np.int32]:
    """Actions of the rows that may start a transition; an episode's last row has none."""
    acted: npt.NDArray[np.bool_] = (insert.row_kind[:, :length] & RowKind.LAST) == 0
    return insert.action[:, :length][acted]


def test_actors_act_on_the_newest_broadcast_and_on_zeros_when_it_is_zero() -> None:
    with stage(epsilon_base=0.0, epsilon_alpha=0.0) as s:
        length = s.manifest.config.block_length
        s.control.publish(ACTING, 0, 1, constant_q(s.manifest, 1.0))
        for number in range(2):
            s.run(run_actor, num_envs=2, number=number)

        def whole_blocks_of(version: int) -> dict[int, list[Insert]]:
            """By actor: a block is acted by its version alone from the second insert of each
            stream on, because the first may have begun before; 2 streams, 3 inserts at least."""
            by_actor: dict[int, list[Insert]] = {}
            for insert in list(s.inserts):
                if insert.weights_version == version:
                    by_actor.setdefault(insert.session, []).append(insert)
            enough = {k: v[2:] for k, v in by_actor.items() if len(v) > 4}
            return enough if len(enough) == 2 else {}

        ones = until(lambda: whole_blocks_of(1), "blocks of both actors with version 1")
        s.control.publish(ACTING, 0, 2, constant_q(s.manifest, 0.0))
        zeros = until(lambda: whole_blocks_of(2), "blocks of both actors with version 2")
        for version, blocks, action in ((1, ones, 1), (2, zeros, 0)):
            for inserts in blocks.values():
                actions = np.concatenate([chosen_actions(i, length) for i in inserts])
                assert len(actions), version
                assert (actions == action).all(), f"version {version} must act on {action}"


def test_a_version_from_before_a_restart_does_not_come_back() -> None:
    with stage() as s:
        s.control.publish(ACTING, 1, 10, constant_q(s.manifest, 0.0))
        s.run(run_actor)
        until(lambda: [i for i in s.inserts if i.weights_version == 10], "acting on version 10")
        s.control.publish(ACTING, 0, 99, constant_q(s.manifest, 0.0))
        s.control.publish(ACTING, 1, 11, constant_q(s.manifest, 0.0))
        until(lambda: [i for i in s.inserts if i.weights_version == 11], "acting on version 11")
        assert {i.weights_version for i in s.inserts} == {10, 11}


def test_weights_of_another_network_are_passed_over_and_counted() -> None:
    with stage() as s:
        good = constant_q(s.manifest, 1.0)
        bad = {
            "field": {"w": np.zeros(2, np.float32)},
            "shape": {name: array[..., None] for name, array in good.items()},
            "dtype": {name: array.astype(np.int32) for name, array in good.items()},
            "non_finite": {name: array * np.nan for name, array in good.items()},
        }
        s.control.publish(ACTING, 0, 1, good)
        s.control.publish(EVALUATION, 0, 1, good)
        s.run(run_actor)
        s.run(run_evaluator)
        until(lambda: s.inserts and s.evaluator_plays(1), "both use version 1")

        def told(role: str, name: str) -> float:
            return sum(m["values"].get(f"{role}_{name}", 0.0) for m in s.members(role))

        for version, (reason, tensors) in enumerate(bad.items(), 2):
            for topic, role in ((ACTING, "actor"), (EVALUATION, "evaluator")):
                s.control.publish(topic, 0, version, tensors)
                rejected = f"rejected_messages_total.{reason}"
                until(lambda r=role, n=rejected: told(r, n) == 1, f"{role} refuses {reason}")  # type: ignore[misc]
                assert told(role, "weights_version") == 1
        s.control.publish(ACTING, 0, 9, good)
        until(lambda: [i for i in s.inserts if i.weights_version == 9], "acting on version 9")


def test_an_actor_that_joins_late_gets_the_current_weights() -> None:
    with stage() as s:
        s.control.publish(ACTING, 0, 1, constant_q(s.manifest, 0.0))
        s.run(run_actor)
        until(lambda: s.inserts, "inserts of the first actor")
        # Nothing is published from here on.
        late = s.run(run_actor, num_envs=3)
        until(lambda: any(len(i.action) == 3 for i in s.inserts), "inserts of 3 environments")
        assert late.failure is None
        assert len(s.members("actor")) == 2


def test_an_actor_is_a_member_no_more_once_it_has_left() -> None:
    with stage() as s:
        s.control.publish(ACTING, 0, 1, constant_q(s.manifest, 0.0))
        actor = s.run(run_actor)
        until(lambda: s.inserts, "inserts")
        actor.end()
        until(lambda: not s.members("actor"), "the head to forget the actor")
        assert s.status()["lost"] == {}


def test_an_actor_that_has_grown_too_large_leaves_once_all_it_sent_is_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clients: list[ReplayClient] = []
    owed: list[int] = []

    class Noted(ReplayClient):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            clients.append(self)

        def close(self) -> None:
            owed.append(self.unacknowledged)
            super().close()

    monkeypatch.setattr(actor.loop, "ReplayClient", Noted)
    monkeypatch.setattr(actor.loop, "HAND_IN_S", WAIT_S)
    # It takes acknowledgements before it sends: whatever it sent last is one that it waits for.
    monkeypatch.setattr(MemoryLimit, "is_reached", lambda *_: clients[0].unacknowledged > 0)
    with stage(actor_memory_limit=1e6) as s:
        s.control.publish(ACTING, 0, 1, constant_q(s.manifest, 0.0))
        with pytest.raises(MemoryLimitReached):
            run_actor(MemberOptions(s.head), s.context, threading.Event(), lambda _: None)
        assert owed == [0]
        assert s.inserts


def test_an_evaluation_longer_than_the_heads_patience_still_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 2 environments, one episode of 50 steps of 2 · 0.05 s each: 5 s. Heartbeats come every second.
    monkeypatch.setattr(learner.head, "SILENCE_S", 2.5)
    slow = {"env": "tests.integration.environments:Paced-v0", "env_kwargs": {"length": 50}}
    with stage(**slow) as s:
        s.control.publish(EVALUATION, 0, 7, constant_q(s.manifest, 1.0))
        s.run(run_evaluator)
        (result,) = until(s.control.take_evaluations, "the evaluation")
        assert (result.version, result.episode_return.tolist()) == (7, [50.0, 50.0])
        assert s.status()["lost"] == {}


def test_an_evaluator_that_was_busy_catches_up_with_the_newest_weights() -> None:
    # An evaluation takes 20 · 2 · 0.02 s; far more versions come meanwhile than its queue holds.
    slow = {
        "env": "tests.integration.environments:Paced-v0",
        "env_kwargs": {"length": 20, "delay_s": 0.02},
    }
    with stage(**slow) as s:
        s.control.publish(EVALUATION, 0, 1, constant_q(s.manifest, 1.0))
        s.run(run_evaluator)
        until(lambda: s.evaluator_plays(1), "the evaluator to play version 1")
        for version in range(2, 41):
            s.control.publish(EVALUATION, 0, version, constant_q(s.manifest, 1.0))
            s.status()
        versions: list[int] = []

        def newest_is_evaluated() -> bool:
            versions.extend(result.version for result in s.control.take_evaluations())
            return 40 in versions

        until(newest_is_evaluated, "the evaluation of version 40")
        # Older ones were passed over, not played one by one.
        assert len(versions) < 10
        assert versions == sorted(versions)


def test_an_evaluator_stops_in_the_middle_of_an_episode() -> None:
    # An episode takes 1,000 · 2 · 0.05 s, longer than the test waits.
    slow = {"env": "tests.integration.environments:Paced-v0", "env_kwargs": {"length": 1_000}}
    with stage(**slow) as s:
        s.control.publish(EVALUATION, 0, 7, constant_q(s.manifest, 1.0))
        evaluator = s.run(run_evaluator)
        until(lambda: s.evaluator_plays(7), "the evaluator to play")
        s.control.stop_members(timeout_s=0.0)
        until(lambda: not evaluator.thread.is_alive(), "the end of the evaluator")


def test_a_head_that_does_not_answer_is_said_in_one_line() -> None:
    with zmq.Context() as context:
        membership = Membership(context, "tcp://127.0.0.1:9", "actor")
        try:
            with pytest.raises(HeadUnreachable) as raised:
                membership.join(time.monotonic, threading.Event(), timeout_s=0.2)
        finally:
            membership.leave("nobody there")
    assert str(raised.value).startswith("no answer from a head at tcp://127.0.0.1:9 in")
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 5


def test_a_process_that_waits_for_its_head_can_be_stopped() -> None:
    stop = threading.Event()
    with zmq.Context() as context:
        waiting = Role(
            lambda _: run_actor(MemberOptions("tcp://127.0.0.1:9"), context, stop, lambda _: None)
        )
        stop.set()
        waiting.end()
