"""What strangers may send: every message that breaks the contract is answered, counted, and leaves
the table as it was."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_array_equal

import replay_server.checks
import replay_server.sessions
from common import codec
from common.blocks import MAX_REWARD
from common.config import Config
from common.errors import MalformedMessage, Reason
from common.manifest import Manifest
from common.messages import Ack, Batch, Insert, Message, PartRequest, Rejected, SampleRequest
from common.spec import EnvSpec
from replay_server.server import build_table
from replay_server.table import Table
from replay_server.waiting import held_bytes
from tests.contract.examples import EXAMPLES
from tests.experience import SPEC, insert, steps
from tests.unit.replay_server.tables import ACTOR, LEARNER, draw, make_table, rejected, request

SHAPE, DTYPE, RANGE = Reason.SHAPE, Reason.DTYPE, Reason.RANGE
NON_FINITE, SEQUENCE = Reason.NON_FINITE, Reason.SEQUENCE
ARRAYS = ("obs", "action", "reward", "row_kind", "priority")
STORED = insert(steps(2), session=3)
GOOD = insert(steps(2), session=3, sequence=1)


def stored_table() -> Table:
    table = make_table()
    table.handle(ACTOR, STORED, 0.0)
    return table


def assert_is_as_if_never_sent(table: Table) -> None:
    """The table goes on exactly like a twin that the bad message never reached."""
    twin = stored_table()
    for column in ("number", "session", "sequence", "version", *ARRAYS):
        assert_array_equal(getattr(table.storage, column), getattr(twin.storage, column))
    # Its sequence number is not taken: the insert can be sent again as it should have been.
    for each in (table, twin):
        assert each.handle(LEARNER, request(0), 0.0) == []
        assert each.handle(ACTOR, GOOD, 0.0) == [(ACTOR, Ack(GOOD.session, GOOD.sequence))]
        assert each.counters.duplicates == 0
    assert codec.encode(draw(table)) == codec.encode(draw(twin))


def with_cell(field: str, value: float) -> Insert:
    """The good insert with one cell, in the middle of the array, changed."""

    def change(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        changed = array.copy()
        changed.reshape(-1)[array.size // 2] = value
        return changed

    return with_array(field, change)


def with_array(field: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Insert:
    changed: dict[str, Any] = {field: change(getattr(GOOD, field))}
    return replace(GOOD, **changed)


NO_BLOCKS = replace(GOOD, **{array: getattr(GOOD, array)[:0] for array in ARRAYS})
BAD_INSERTS: list[tuple[str, Insert, str, Reason]] = [
    *[
        (f"{a}: a row less", with_array(a, lambda x: x[:, :-1]), f"{a} has shape", SHAPE)
        for a in ARRAYS
    ],
    *[
        (
            f"{a}: a row more",
            with_array(a, lambda x: np.repeat(x, 2, 1)),
            f"{a} has shape",
            SHAPE,
        )
        for a in ARRAYS
    ],
    *[
        (
            f"{a}: a block less than the others",
            with_array(a, lambda x: x[1:]),
            "has shape",
            SHAPE,
        )
        for a in ARRAYS
    ],
    ("obs: another shape", with_array("obs", lambda x: x[..., :1]), "obs has shape", SHAPE),
    ("obs: an axis more", with_array("obs", lambda x: x[..., None]), "obs has shape", SHAPE),
    ("obs: an axis less", with_array("obs", lambda x: x[..., 0]), "obs has shape", SHAPE),
    ("obs: float64", with_array("obs", lambda x: x.astype("<f8")), "obs is float64", DTYPE),
    (
        "obs: of the same width",
        with_array("obs", lambda x: x.view("<i4")),
        "obs is int32",
        DTYPE,
    ),
    ("obs: NaN", with_cell("obs", np.nan), "obs is not finite", NON_FINITE),
    ("obs: ∞", with_cell("obs", np.inf), "obs is not finite", NON_FINITE),
    ("obs: −∞", with_cell("obs", -np.inf), "obs is not finite", NON_FINITE),
    ("reward: NaN", with_cell("reward", np.nan), "reward is not finite", NON_FINITE),
    ("reward: ∞", with_cell("reward", np.inf), "reward is not finite", NON_FINITE),
    ("reward: −∞", with_cell("reward", -np.inf), "reward is not finite", NON_FINITE),
    ("reward: too large", with_cell("reward", 1.01e12), "reward is beyond ±1e+12", RANGE),
    ("reward: too small", with_cell("reward", -3e38), "reward is beyond ±1e+12", RANGE),
    ("priority: NaN", with_cell("priority", np.nan), "priority is not finite", NON_FINITE),
    ("priority: ∞", with_cell("priority", np.inf), "priority is not finite", NON_FINITE),
    ("priority: −∞", with_cell("priority", -np.inf), "priority is not finite", NON_FINITE),
    ("priority: negative", with_cell("priority", -1e-9), "priority is negative", RANGE),
    ("action: negative", with_cell("action", -1), "action leaves 0 … 4", RANGE),
    (
        "action: one too many",
        with_cell("action", SPEC.num_actions),
        "action leaves 0 … 4",
        RANGE,
    ),
    ("action: lowest", with_cell("action", -(1 << 31)), "action leaves 0 … 4", RANGE),
    (
        "row_kind: unknown flag",
        with_cell("row_kind", 8),
        "row_kind has unknown flags",
        RANGE,
    ),
    ("row_kind: all flags", with_cell("row_kind", 255), "row_kind has unknown flags", RANGE),
    ("no blocks", NO_BLOCKS, "0 blocks in an insert", RANGE),
    (
        "more blocks than slots",
        insert(steps(5), session=3, sequence=1),
        "5 blocks in an insert",
        RANGE,
    ),
    ("negative sequence", replace(GOOD, sequence=-1), "count from 0", SEQUENCE),
    ("negative connection", replace(GOOD, connection=-1), "count from 0", SEQUENCE),
    ("negative session", replace(GOOD, session=-1), "count from 0", SEQUENCE),
]


@pytest.mark.parametrize(
    ("bad", "said", "reason"),
    [case[1:] for case in BAD_INSERTS],
    ids=[case[0] for case in BAD_INSERTS],
)
def test_a_bad_insert_is_rejected_with_nothing_stored(
    bad: Insert, said: str, reason: Reason
) -> None:
    table = stored_table()

    ((peer, reply),) = table.handle(ACTOR, bad, 0.0)

    assert peer == ACTOR
    assert isinstance(reply, Rejected)
    assert (reply.session, reply.sequence) == (bad.session, bad.sequence)
    assert said in reply.reason
    assert rejected(table) == {reason: 1}
    assert_is_as_if_never_sent(table)


def test_values_at_the_edge_of_what_is_allowed_are_stored() -> None:
    table = make_table(batch_size=64)
    edge = insert(steps(4), session=(1 << 63) - 1, sequence=(1 << 63) - 1)
    largest = float(np.finfo(np.float32).max)
    edge.obs[0], edge.reward[0], edge.priority[0] = -largest, MAX_REWARD, largest
    edge.reward[1] = -MAX_REWARD
    edge.priority[1:] = 0.0
    edge.action[:] = SPEC.num_actions - 1
    edge.row_kind[:, -1] = 7

    assert table.handle(ACTOR, edge, 0.0) == [(ACTOR, Ack(edge.session, edge.sequence))]

    batch = draw(table)
    assert np.isfinite(batch.probability).all()
    assert (batch.probability > 0.0).all()
    assert np.isfinite(batch.n_step_return).all()


def bad_update(priority: float) -> SampleRequest:
    return request(1, [(4, 1.0), (5, priority), (6, 1.0)])  # Keys of block 1.


ONE_KEY_MORE = SampleRequest(1, np.array([4, 5]), np.ones(1, np.float32))
BAD_REQUESTS = [
    ("batches: −1", request(-1, [(4, 99.0)]), "batches is not in 0 … 64", RANGE),
    ("batches: 65", request(65, [(4, 99.0)]), "batches is not in 0 … 64", RANGE),
    ("batches: highest", request((1 << 63) - 1), "batches is not in 0 … 64", RANGE),
    ("priority: NaN", bad_update(np.nan), "priority is negative or not finite", NON_FINITE),
    ("priority: ∞", bad_update(np.inf), "priority is negative or not finite", NON_FINITE),
    ("priority: −∞", bad_update(-np.inf), "priority is negative or not finite", NON_FINITE),
    ("priority: negative", bad_update(-0.5), "priority is negative or not finite", RANGE),
    ("a key more than priorities", ONE_KEY_MORE, "as many priorities as keys", SHAPE),
    (
        "a bad priority for nobody's key",
        request(1, [(-7, np.nan)]),
        "not finite",
        NON_FINITE,
    ),
]


@pytest.mark.parametrize(
    ("bad", "said", "reason"),
    [case[1:] for case in BAD_REQUESTS],
    ids=[case[0] for case in BAD_REQUESTS],
)
def test_a_bad_request_is_rejected_and_neither_updates_nor_earns_batches(
    bad: SampleRequest, said: str, reason: Reason
) -> None:
    table = stored_table()

    ((peer, reply),) = table.handle(LEARNER, bad, 0.0)

    assert peer == LEARNER
    assert isinstance(reply, Rejected)
    assert (reply.session, reply.sequence) == (-1, -1)
    assert said in reply.reason
    assert rejected(table) == {reason: 1}
    assert (table.counters.updates, table.counters.stale_updates) == (0, 0)
    assert_is_as_if_never_sent(table)


@pytest.mark.parametrize(
    "message",
    [m for m in EXAMPLES if not isinstance(m, Insert | SampleRequest | PartRequest)],
    ids=lambda message: message.kind,
)
def test_a_message_for_somebody_else_is_rejected(message: Message) -> None:
    table = stored_table()

    replies = table.handle(b"stranger", message, 0.0)

    reason = f"a replay server does not take {message.kind!r}"
    assert replies == [(b"stranger", Rejected(-1, -1, reason))]
    assert rejected(table) == {Reason.UNKNOWN_KIND: 1}
    assert_is_as_if_never_sent(table)


def test_refusals_are_counted_by_reason() -> None:
    table = stored_table()
    for _ in range(2):
        table.handle(ACTOR, with_cell("obs", np.nan), 0.0)
    table.handle(LEARNER, request(-1), 0.0)

    answer = table.reject(None, MalformedMessage("no msgpack"), 0.0)

    assert answer == Rejected(-1, -1, "no msgpack")
    assert rejected(table) == {
        Reason.NON_FINITE: 2, Reason.RANGE: 1, Reason.UNDECODABLE: 1,
    }  # fmt: skip


def test_an_insert_that_would_unpack_to_more_than_any_actor_sends_is_rejected_unopened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = stored_table()
    monkeypatch.setattr(replay_server.checks, "MAX_INSERT_BYTES", GOOD.obs.nbytes - 1)

    ((_, reply),) = table.handle(ACTOR, GOOD, 0.0)

    assert isinstance(reply, Rejected)
    assert rejected(table) == {Reason.TOO_LARGE: 1}


def filled_by_a_stranger(table: Table, inserts: int) -> int:
    """So many under invented sessions; how many of them wait."""
    acks = 0
    for session in range(100, 100 + inserts):
        replies = table.handle(b"stranger", insert(steps(2), session=session), 0.0)
        acks += sum(isinstance(reply, Ack) for _, reply in replies)
    return inserts - acks - rejected(table)[Reason.FLOOD]


def test_inserts_that_wait_take_no_more_memory_than_the_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many sessions somebody invents."""
    monkeypatch.setattr(replay_server.table, "MIN_WAITING_BYTES", 0)
    # The limiter lets in what it needs for one batch, and then waits for the learner.
    table = make_table(slots=1_000, samples_per_insert=4.0, tolerance=2.0)
    most = table.storage.nbytes // held_bytes(STORED)

    assert filled_by_a_stranger(table, 2 * most) == most

    refused = rejected(table)[Reason.FLOOD]
    # When the learner takes its samples, there is room again.
    assert isinstance(table.handle(LEARNER, request(8), 0.0)[0][1], Batch)
    table.handle(ACTOR, insert(steps(2), session=9), 0.0)
    assert rejected(table)[Reason.FLOOD] == refused


def test_who_invents_sessions_takes_no_room_from_actors_that_were_there_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay_server.table, "MIN_WAITING_BYTES", 0)
    table = make_table(slots=1_000, samples_per_insert=4.0, tolerance=2.0)
    assert table.handle(ACTOR, STORED, 0.0) == [(ACTOR, Ack(3, 0))]
    most = table.storage.nbytes // held_bytes(STORED)
    assert filled_by_a_stranger(table, most + 1) == most

    for sequence in range(1, 1 + most):
        message = insert(steps(2), session=3, sequence=sequence, oldest=1)
        assert table.handle(ACTOR, message, 0.0) == []
    (reply,) = table.handle(ACTOR, insert(steps(2), session=3, sequence=1 + most, oldest=1), 0.0)
    assert isinstance(reply[1], Rejected)  # What they have is bounded, too.


def test_all_actors_of_a_run_may_have_full_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though that is more than the replay, and nothing is stored while the limiter waits."""
    monkeypatch.setattr(replay_server.table, "MIN_WAITING_BYTES", 0)
    actors, window, envs, dims = 20, 3, 4, 500
    config = Config(
        actors=actors,
        insert_window=window,
        envs_per_actor=envs,
        block_length=8,
        replay_capacity=64,
        batch_size=4,
        min_size_to_sample=1,
        samples_per_insert=100.0,
    )
    manifest = Manifest("run", config, EnvSpec((dims,), "<f4", 2))
    table = build_table(manifest, None)
    full = insert(steps(envs, manifest.layout), layout=manifest.layout, spec=manifest.spec)
    for session in range(actors):
        for sequence in range(window):
            message = replace(full, session=session, sequence=sequence, oldest=0)
            table.handle(ACTOR, message, 0.0)
    assert rejected(table) == {}
    assert len(table._waiting) * held_bytes(full) > table.storage.nbytes


def test_invented_sessions_and_learners_are_not_remembered_beyond_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay_server.table, "MIN_WAITING_BYTES", 0)
    monkeypatch.setattr(replay_server.table, "MAX_LEARNERS", 3)
    monkeypatch.setattr(replay_server.sessions, "MAX_REMEMBERED_SESSIONS", 5)
    # Nobody samples from the first, so its limiter makes inserts wait; the second holds nothing.
    table = make_table(samples_per_insert=4.0, tolerance=2.0)
    empty = make_table()
    most = table.storage.nbytes // held_bytes(insert(steps()))
    for number in range(100):
        # Out of order, and nothing of the session was ever accepted: not worth a memory.
        table.handle(ACTOR, insert(steps(), session=number, sequence=9, oldest=0), 0.0)
        table.handle(ACTOR, insert(steps(), session=1_000 + number), 0.0)
        empty.handle(b"%d" % number, request(), 0.0)
    assert len(table._waiting) == most
    assert len(table._sessions) <= 5 + most
    assert rejected(table) == {Reason.FLOOD: 100 - most - table.counters.inserted_blocks}
    assert len(empty._owed) == 3
    assert rejected(empty) == {Reason.FLOOD: 97}
    # One that is owed batches may still ask for more.
    assert empty.handle(b"0", request(), 0.0) == []
