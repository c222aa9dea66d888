"""A replay server that dies and starts again over its storage file: whatever was acknowledged is
there, whatever was not can be sent again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import CheckpointError
from common.messages import Ack, SampleRequest
from replay_server import sessions, storage
from replay_server.table import Table
from tests.experience import LAYOUT, TERMINATED, Kinds, insert, row_kinds, seen, steps, transitions
from tests.unit.replay_server.tables import ACTOR, LEARNER, draw, make_table, request, updates

LENGTH = LAYOUT.length
EVERYTHING = 256
"""A stratified batch of this size holds every transition of these small tables."""


def open_table(path: Path, slots: int = 4) -> Table:
    """Opening it a second time is the restart: the file is the first one's memory."""
    return make_table(slots=slots, batch_size=EVERYTHING, path=path)


def contents(table: Table) -> dict[int, tuple[Any, ...]]:
    """All that a learner is told of each transition, by key."""
    if not table.sampler.size:
        return {}
    batch = draw(table)
    obs, next_obs = seen(batch.frames, batch.shift)
    action, n_step_return, discount, probability = (
        column.tolist()
        for column in (batch.action, batch.n_step_return, batch.discount, batch.probability)
    )
    rows = zip(obs, action, n_step_return, discount, next_obs, probability, strict=True)
    return dict(zip(batch.key.tolist(), rows, strict=True))


@settings(max_examples=50)
@given(st.lists(st.one_of(row_kinds(), updates()), min_size=1, max_size=8))
def test_transitions_priorities_and_keys_are_the_same_after_a_restart(
    tmp_path_factory: pytest.TempPathFactory, operations: list[Kinds | SampleRequest]
) -> None:
    path = tmp_path_factory.mktemp("restart") / "replay.bin"
    table = open_table(path, slots=3)
    for sequence, operation in enumerate(operations):
        if isinstance(operation, SampleRequest):
            table.handle(LEARNER, operation, 0.0)
        else:
            table.handle(ACTOR, insert(operation, sequence=sequence), 0.0)

    restarted = open_table(path, slots=3)

    assert restarted.sampler.size == table.sampler.size
    assert contents(restarted) == contents(table)
    assert restarted.storage.next_number == table.storage.next_number


@pytest.mark.parametrize("prioritized", [True, False])
def test_an_acknowledged_insert_is_not_stored_twice_after_a_restart(
    tmp_path: Path, prioritized: bool
) -> None:
    def start() -> Table:
        return make_table(prioritized=prioritized, path=tmp_path / "replay.bin")

    sent = [insert(steps(), session=i % 2, sequence=i) for i in range(4)]
    table = start()
    for message in sent:
        table.handle(ACTOR, message, 0.0)

    table = start()

    for message in sent:
        replies = table.handle(ACTOR, message, 0.0)
        assert replies == [(ACTOR, Ack(message.session, message.sequence))]
    assert (table.counters.duplicates, table.counters.inserted_blocks) == (4, 0)
    assert table.sampler.size == table.limiter.inserts == 4 * LENGTH
    # The next ones are new.
    for session, sequence in ((0, 4), (1, 5), (2, 0)):
        table.handle(ACTOR, insert(steps(), session=session, sequence=sequence), 0.0)
    assert (table.counters.duplicates, table.counters.inserted_blocks) == (4, 3)


def test_after_a_restart_as_before_the_oldest_sessions_are_forgotten_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_REMEMBERED_SESSIONS", 2)
    table = open_table(tmp_path / "replay.bin")
    for session in (1, 0):
        table.handle(ACTOR, insert(steps(), session=session), 0.0)

    table = open_table(tmp_path / "replay.bin")

    for session in (2, 0):
        table.handle(ACTOR, insert(steps(), session=session), 0.0)
    assert table.counters.duplicates == 1  # Session 0's.


@pytest.mark.parametrize(
    ("inserts", "samples"),
    [
        # One sample for each insert, band 0 ± 4 around the error at 4 inserts, 4 at once.
        (4, 0),  # error 0
        (4, 4),  # error −4: the learner waits
        (8, 0),  # error 4
        (12, 8),  # error 0
        (12, 0),  # error 8: actors wait, one insert beyond the band
    ],
)
def test_the_counters_of_the_rate_limiter_go_on(tmp_path: Path, inserts: int, samples: int) -> None:
    def start() -> Table:
        return make_table(
            samples_per_insert=1.0,
            min_size_to_sample=4,
            tolerance=4.0,
            path=tmp_path / "replay.bin",
        )

    table = start()
    for i in range(inserts // LENGTH):
        table.handle(ACTOR, insert(steps(), sequence=i), 0.0)
    for _ in range(samples // 4):
        draw(table)

    restarted = start()

    assert (restarted.limiter.inserts, restarted.limiter.samples) == (inserts, samples)
    replies = restarted.handle(LEARNER, request(), 0.0)
    replies += restarted.handle(ACTOR, insert(steps(), sequence=inserts // LENGTH), 0.0)
    assert [type(message).__name__ for _, message in replies] in (
        ["Batch", "Ack"],
        ["Ack", "Batch"],
    )
    assert restarted.limiter.inserts == inserts + 4
    assert restarted.limiter.samples == samples + 4


def test_inserts_that_waited_are_not_there_and_are_stored_when_sent_again(tmp_path: Path) -> None:
    def start() -> Table:
        return make_table(
            samples_per_insert=1.0,
            min_size_to_sample=4,
            tolerance=4.0,
            path=tmp_path / "replay.bin",
        )

    table = start()
    sent = [insert(steps(), sequence=i) for i in range(5)]
    acknowledged = [table.handle(ACTOR, message, 0.0) for message in sent]
    assert acknowledged[3:] == [[], []]

    restarted = start()

    assert restarted.sampler.size == 3 * LENGTH
    replies = [restarted.handle(ACTOR, message, 0.0) for message in sent]
    replies += [restarted.handle(LEARNER, request(3), 0.0)]
    acks = [message for reply in replies for _, message in reply if isinstance(message, Ack)]
    assert acks == [Ack(0, i) for i in range(5)]
    assert restarted.counters.duplicates == 3


def test_a_table_of_blocks_that_start_no_transition_is_restored_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    message = insert([[TERMINATED] * LAYOUT.rows])
    open_table(path).handle(ACTOR, message, 0.0)

    restarted = open_table(path)

    assert restarted.sampler.size == 0
    assert restarted.handle(LEARNER, request(), 0.0) == []
    assert restarted.handle(ACTOR, message, 0.0) == [(ACTOR, Ack(0, 0))]
    assert restarted.counters.duplicates == 1


def test_a_file_of_another_capacity_is_refused(tmp_path: Path) -> None:
    open_table(tmp_path / "replay.bin", slots=4).handle(ACTOR, insert(steps()), 0.0)

    with pytest.raises(CheckpointError, match="resume with the run's own settings"):
        open_table(tmp_path / "replay.bin", slots=8)


# ------------------------------------------------------------------ killed in the middle of a write


def test_a_slot_whose_number_is_0_is_empty_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    table = open_table(path)
    for i in range(3):  # Blocks 1, 2 and 3 in slots 1, 2 and 3.
        table.handle(ACTOR, insert(steps(), sequence=i), 0.0)
    table.storage.number[3] = 0

    restarted = open_table(path)

    assert restarted.sampler.size == 2 * LENGTH
    assert set(contents(restarted)) == set(range(1 * LENGTH, 3 * LENGTH))
    _, live = restarted.storage.live_items(np.arange(3 * LENGTH, 4 * LENGTH))
    assert not live.any()
    # It was never acknowledged, and is stored when it is sent again.
    assert restarted.handle(ACTOR, insert(steps(), sequence=2), 0.0) == [(ACTOR, Ack(0, 2))]
    assert restarted.sampler.size == 3 * LENGTH


class Killed(BaseException):
    """The process ends here."""


class DiesAtWrite(np.ndarray[Any, Any]):
    """A column that survives some writes and is killed at the next; halfway through, where that
    writes several slots."""

    survives: int

    def __setitem__(self, place: Any, values: Any) -> None:
        if self.survives:
            self.survives -= 1
            super().__setitem__(place, values)
            return
        if isinstance(place, slice):
            slots = np.arange(len(self))[place]
            half = len(slots) // 2
            super().__setitem__(slots[:half], values[:half])
        raise Killed


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage's compiled loops as Python, one write at a time."""
    for name in ("_number_blocks", "_write_columns"):
        monkeypatch.setattr(storage, name, getattr(storage, name).py_func)


@pytest.mark.parametrize("stored", [2, 4], ids=["into free slots", "over older blocks"])
@pytest.mark.parametrize(
    ("column", "survives"),
    # Two blocks: each number is written twice, first to 0 and then anew.
    [("number", survives) for survives in range(4)]
    + [(name, n) for name in ("session", "sequence", "version") for n in range(2)]
    + [(name, n) for name in ("action", "reward", "row_kind", "priority") for n in (0, 3, 5)]
    + [("obs", 0)],
)
@pytest.mark.usefixtures("interpreted")
def test_killed_while_writing_a_column_it_keeps_no_half_insert_and_takes_it_again(
    tmp_path: Path, stored: int, column: str, survives: int
) -> None:
    path = tmp_path / "replay.bin"
    table = open_table(path)
    first, killed = insert(steps(stored)), insert(steps(2), sequence=1)
    table.handle(ACTOR, first, 0.0)
    before = contents(table)
    dying: Any = getattr(table.storage, column).view(DiesAtWrite)
    dying.survives = survives
    setattr(table.storage, column, dying)
    with pytest.raises(Killed):
        table.handle(ACTOR, killed, 0.0)

    restarted = open_table(path)

    # Blocks 1 and 2 may have given way; every other block is whole, and no new one is there.
    after = contents(restarted)
    assert set(after) <= set(before)
    assert all(after[key][:-1] == before[key][:-1] for key in after)
    kept = range(1 if stored == 2 else 3, stored + 1)
    assert {key // LENGTH for key in after} >= set(kept)
    # Nor can a stranger who guesses keys bring a half insert to life.
    guessed = np.arange(9 * LENGTH)
    _, live = restarted.storage.live_items(guessed)
    assert set(guessed[live].tolist()) == set(after)

    assert restarted.handle(ACTOR, killed, 0.0) == [(ACTOR, Ack(0, 1))]
    assert restarted.sampler.size == 4 * LENGTH
    new = [row[:-1] for key, row in sorted(contents(restarted).items()) if key not in before]
    assert new == [transition[:-1] for transition in transitions(killed).values()]


def test_a_key_of_the_time_before_names_nothing_that_was_written_after(tmp_path: Path) -> None:
    # One insert fills all slots, and the process is killed while the next one does so.
    path = tmp_path / "replay.bin"
    table = open_table(path, slots=2)
    table.handle(ACTOR, insert(steps(2)), 0.0)
    old_keys = np.array(list(contents(table)))
    dying: Any = table.storage.obs.view(DiesAtWrite)
    dying.survives = 0
    table.storage.obs = dying
    with pytest.raises(Killed):
        table.handle(ACTOR, insert(steps(2), sequence=1), 0.0)

    restarted = open_table(path, slots=2)
    restarted.handle(ACTOR, insert(steps(2), sequence=1), 0.0)

    _, live = restarted.storage.live_items(old_keys)
    assert not live.any()


@pytest.mark.parametrize("remembered", [True, False], ids=["restored", "empty"])
def test_what_overtook_lost_inserts_is_taken_only_when_it_comes_again(
    tmp_path: Path, remembered: bool
) -> None:
    """0 was acknowledged; 1 was on its way when the server died, 2 and 3 were queued: they reach
    the new server first, and then the whole window comes again."""
    path = tmp_path / "replay.bin"
    make_table(path=path).handle(ACTOR, insert(steps(), sequence=0), 0.0)
    table = make_table(path=path if remembered else None)
    window = [insert(steps(), sequence=i, oldest=1) for i in (2, 3, 1, 2, 3)]

    replies = [table.handle(ACTOR, message, 0.0) for message in window]

    acks = [[(ACTOR, Ack(0, i))] for i in (1, 2, 3)]
    assert replies == [[], [], *acks]
    stored = set(table.storage.sequence[table.storage.filled()].tolist())
    assert stored == ({0, 1, 2, 3} if remembered else {1, 2, 3})
