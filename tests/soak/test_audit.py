"""An audit that never finds anything proves nothing: every fault it is there for, made by hand."""

from pathlib import Path

import numpy as np
import pytest

from common.messages import Insert
from replay_server.storage import Storage
from tests.experience import LAYOUT, SPEC, insert, steps
from tests.soak.audit import Audit
from tests.soak.ledger import Reader, Writer, digest_of

SLOTS = 40


class MadeRun:
    """A ledger and a storage file, written by the test."""

    def __init__(self, directory: Path) -> None:
        self.storage = Storage(SPEC, LAYOUT, SLOTS, directory / "storage")
        self.ledger = directory / "ledger"
        self._writers: dict[int, Writer] = {}
        self.audit = Audit(self.ledger, directory / "storage")

    def writer(self, session: int) -> Writer:
        if session not in self._writers:
            self._writers[session] = Writer(self.ledger, session)
        return self._writers[session]

    def send(self, session: int, sequence: int, blocks: int = 2) -> Insert:
        message = insert(steps(blocks), session=session, sequence=sequence)
        columns = (message.obs, message.action, message.reward, message.row_kind)
        self.writer(session).sent(sequence, blocks, digest_of(columns))
        return message

    def deliver(self, session: int, *sequences: int) -> None:
        """Sent, stored, acknowledged."""
        for sequence in sequences:
            self.storage.write(self.send(session, sequence))
            self.writer(session).acknowledged(sequence)

    def found(self) -> tuple[int, int, int]:
        """Lost, doubled, altered."""
        findings = self.audit.look()
        return findings.lost, findings.doubled, findings.altered


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    run = MadeRun(tmp_path)
    run.deliver(1, 0, 1, 2)
    run.deliver(2, 0)
    assert run.found() == (0, 0, 0)
    return run


def test_what_was_sent_stored_and_acknowledged_is_found_and_counted(made: MadeRun) -> None:
    made.deliver(1, 3)
    made.deliver(3, 0)
    assert made.found() == (0, 0, 0)
    assert (made.audit.findings.acknowledged, made.audit.findings.blocks) == (6, 12)
    assert made.audit.findings.clean


def test_what_nobody_was_told_of_is_no_loss(made: MadeRun) -> None:
    made.send(1, 3)
    assert made.found() == (0, 0, 0)


def test_one_acknowledgement_speaks_for_all_before_it(made: MadeRun) -> None:
    for sequence in (3, 4, 5):
        made.storage.write(made.send(1, sequence))
    made.writer(1).acknowledged(5)
    assert made.found() == (0, 0, 0)
    assert made.audit.findings.acknowledged == 7


def test_what_was_acknowledged_and_not_stored_is_lost(made: MadeRun) -> None:
    made.send(1, 3)
    made.writer(1).acknowledged(3)
    assert made.found() == (1, 0, 0)
    assert made.audit.findings.told == ["lost: session 1: 3 acknowledged, 2 stored"]
    assert made.found() == (1, 0, 0)  # Told once.


def test_an_insert_left_out_is_lost(made: MadeRun) -> None:
    made.deliver(1, 4)
    assert made.found() == (1, 0, 0)


def test_a_block_that_was_there_and_is_not_any_more_is_lost(made: MadeRun) -> None:
    made.storage.number[3] = 0
    assert made.found() == (1, 0, 0)
    assert made.audit.findings.told == ["lost: block 3 is not in its slot"]


def test_half_an_insert_is_lost(made: MadeRun) -> None:
    made.send(1, 3, blocks=2)
    made.storage.write(insert(steps(1), session=1, sequence=3))
    assert made.found() == (1, 0, 0)


@pytest.mark.parametrize("sequence", [2, 0], ids=["at once", "later"])
def test_an_insert_that_is_stored_twice_is_doubled(made: MadeRun, sequence: int) -> None:
    made.storage.write(made.send(1, sequence))
    assert made.found() == (0, 1, 0)


def test_twice_between_two_looks_is_doubled(made: MadeRun) -> None:
    message = made.send(1, 3)
    made.storage.write(message)
    made.storage.write(message)
    assert made.found() == (0, 1, 0)


@pytest.mark.parametrize("column", ["obs", "action", "reward", "row_kind"])
def test_an_insert_with_another_content_is_altered(made: MadeRun, column: str) -> None:
    made.storage.write(made.send(1, 3))
    values = getattr(made.storage, column)[10]  # Blocks 9 and 10 are the newest.
    values.reshape(-1)[-1] += 1
    assert made.found() == (0, 0, 1)


def test_what_nobody_sent_is_altered(made: MadeRun) -> None:
    made.storage.write(insert(steps(), session=9, sequence=0))
    assert made.found() == (0, 0, 1)


def test_an_insert_that_is_not_finished_is_not_looked_at(made: MadeRun) -> None:
    made.storage.write(made.send(1, 3))
    made.storage.counters[2] -= 2
    made.storage.obs[9] += 1
    assert made.found() == (0, 0, 0)


def test_a_full_replay_is_audited_as_long_as_nothing_is_overwritten_unseen(made: MadeRun) -> None:
    for sequence in range(3, 3 + 3 * SLOTS):
        made.deliver(1, sequence)
        if sequence % (SLOTS // 4) == 0:
            assert made.found() == (0, 0, 0)
    assert made.found() == (0, 0, 0)
    assert made.audit.findings.blocks == 2 * (4 + 3 * SLOTS)


def test_blocks_that_were_overwritten_unseen_end_an_audit(made: MadeRun) -> None:
    made.deliver(1, *range(3, 4 + SLOTS // 2))
    with pytest.raises(ValueError, match="2 blocks were overwritten before they were compared"):
        made.audit.look()


def test_in_a_full_replay_a_block_that_is_not_there_any_more_is_lost(made: MadeRun) -> None:
    made.deliver(1, *range(3, 3 + SLOTS // 2 - 1))
    assert made.found() == (0, 0, 0)
    made.deliver(1, *range(2 + SLOTS // 2, SLOTS))
    made.storage.number[made.storage.next_number % SLOTS - 3] = 0
    assert made.found() == (1, 0, 0)
    assert made.found() == (1, 0, 0)  # Told once.


def test_what_gives_way_to_an_insert_on_its_way_is_not_lost(made: MadeRun) -> None:
    made.deliver(1, *range(3, 3 + SLOTS // 2 - 1))
    assert made.found() == (0, 0, 0)
    first = made.storage.next_number % SLOTS
    made.storage.number[first : first + 2] = 0
    assert made.found() == (0, 0, 0)


def test_of_a_record_that_was_cut_off_nothing_is_read_until_it_is_whole(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 1)
    writer.sent(0, 2, 77)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    reader = Reader(tmp_path)
    path.write_bytes(whole[:-1])
    assert len(reader.new()) == 0
    path.write_bytes(whole)
    (record,) = reader.new()
    assert (record["session"], record["blocks"], record["digest"]) == (1, 2, 77)
    assert len(reader.new()) == 0


def test_digests_tell_columns_apart() -> None:
    one, two = np.zeros(4, np.float32), np.ones(4, np.float32)
    assert digest_of([one, two]) == digest_of([one.copy(), two.copy()])
    assert len({digest_of([one, two]), digest_of([two, one]), digest_of([one, one])}) == 3
