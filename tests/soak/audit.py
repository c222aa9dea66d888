"""Was anything lost or doubled? What actors were told, against what lies in the storage file.

For each session the inserts in the file must be 0, 1, 2, … without a gap and without a repetition,
as far as the last one acknowledged at least, each with the content that was sent. A full replay
overwrites its oldest blocks, so each must be looked at before.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.ledger import ACKNOWLEDGED, SENT, Reader, digest_of
from tests.soak.stored import StoredBlocks, StoredInsert

MAX_TOLD = 20
"""Findings that are spelt out."""


@dataclass(slots=True)
class Findings:
    """So far."""

    acknowledged: int = 0
    """Inserts."""
    blocks: int = 0
    """Stored, and compared with what was sent."""
    lost: int = 0
    """Inserts that were acknowledged and are not there, and blocks that were there before."""
    doubled: int = 0
    altered: int = 0
    """Inserts whose content is not what was sent, or that nobody sent."""
    told: list[str] = field(default_factory=list)
    """One line each."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.altered)


class Audit:
    """Looks at a run again and again, each time at what is new.

    Args:
        ledger: directory of the actors' ledgers.
        storage: the replay's file, with room for all that is sent between two looks.
    """

    def __init__(self, ledger: Path, storage: Path) -> None:
        self._reader = Reader(ledger)
        self._storage = storage
        self._sent: dict[tuple[int, int], tuple[int, int]] = {}
        self._acknowledged: dict[int, int] = {}
        self._stored: dict[int, int] = {}
        """Last sequence number in the file, by session."""
        self._next = 1
        """Number of the first block that was not looked at yet."""
        self._absent: set[int] = set()
        self.findings = Findings()

    def look(self) -> Findings:
        """Compare what is new, while the run goes on.

        Raises ValueError when blocks were overwritten before they could be compared.
        """
        self._read_ledger()
        # Of what comes in from here on nothing has been promised yet.
        promised = dict(self._acknowledged)
        file = StoredBlocks(self._storage)
        end = file.next_number
        missing = file.missing(end)
        stored = list(file.inserts(self._next, end))
        # Whatever gave way while it was read is older than this.
        oldest = file.oldest_number
        if self._next < oldest:
            raise ValueError(
                f"{oldest - self._next} blocks were overwritten before they were compared: "
                f"{self._storage} must hold all that is sent between two looks"
            )
        self._absent = {number for number in self._absent if number >= oldest}
        for number in missing:
            if number >= oldest and number not in self._absent:
                self._absent.add(number)
                self._tell("lost", f"block {number} is not in its slot")
        self._next = end
        self._read_ledger()
        for insert in stored:
            self._check(insert)
            self.findings.blocks += len(insert.columns[0])
        for session, sequence in promised.items():
            there = self._stored.get(session, -1)
            if there < sequence:
                self._tell("lost", f"session {session}: {sequence} acknowledged, {there} stored")
                self._stored[session] = sequence
        self.findings.acknowledged = sum(n + 1 for n in self._acknowledged.values())
        return self.findings

    def _check(self, insert: StoredInsert) -> None:
        session, sequence, blocks = insert.session, insert.sequence, len(insert.columns[0])
        what = f"session {session}, insert {sequence}, block {insert.number}"
        expected = self._stored.get(session, -1) + 1
        if sequence < expected:
            self._tell("doubled", f"{what}: stored before")
        elif sequence > expected:
            self._tell("lost", f"{what}: {expected} should have come first")
        self._stored[session] = max(sequence, expected - 1)
        sent, digest = self._sent.get((session, sequence), (0, 0))
        if not sent:
            self._tell("altered", f"{what}: nobody sent it")
        elif blocks != sent:
            self._tell("doubled" if blocks > sent else "lost", f"{what}: {blocks} of {sent} blocks")
        elif digest != digest_of(insert.columns):
            self._tell("altered", f"{what}: not what was sent")

    def _read_ledger(self) -> None:
        for record in self._reader.new():
            session, sequence = int(record["session"]), int(record["sequence"])
            if record["what"] == SENT:
                self._sent[session, sequence] = int(record["blocks"]), int(record["digest"])
            elif record["what"] == ACKNOWLEDGED:
                before = self._acknowledged.get(session, -1)
                self._acknowledged[session] = max(sequence, before)

    def _tell(self, what: str, line: str) -> None:
        setattr(self.findings, what, getattr(self.findings, what) + 1)
        if len(self.findings.told) < MAX_TOLD:
            self.findings.told.append(f"{what}: {line}")
