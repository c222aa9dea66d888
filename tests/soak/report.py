"""What a soak found: figures, each with the limit that was promised for it, if one was."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.soak.audit import Findings
from tests.soak.kills import Toll
from tests.soak.resources import Use
from tests.soak.scores import Forgetting

REPLAY_BACK_S, LEARNER_BACK_S = 3.0, 10.0
GROWN = 1.10
"""What a second half may take beyond the first: allocators and caches are not exact."""
SLACK_BYTES = 16 << 20
MORE_DESCRIPTORS, MORE_THREADS = 8, 2
"""What dead peers may hold until they are given up. A leak at each kill is more."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    figure: str
    value: float
    unit: str
    limit: float | None = None
    """The value must not be above it; None: published alone."""

    @property
    def holds(self) -> bool:
        return self.limit is None or self.value <= self.limit


def rows_of(
    findings: Findings,
    toll: Toll,
    forgetting: Forgetting | None,
    halves: dict[str, tuple[Use, Use]],
    minutes: float,
) -> list[Row]:
    """All figures of a soak."""
    rows = [
        Row("duration", minutes, "min"),
        Row("kills", sum(toll.kills.values()), "kills"),
        *(Row(f"kills, {role}", n, "kills") for role, n in sorted(toll.kills.items())),
        Row("inserts acknowledged", findings.acknowledged, "inserts"),
        Row("blocks compared with what was sent", findings.blocks, "blocks"),
        Row("acknowledged and lost", findings.lost, "", 0),
        Row("stored twice", findings.doubled, "", 0),
        Row("altered", findings.altered, "", 0),
    ]
    limits = {"replay_server": REPLAY_BACK_S, "learner": LEARNER_BACK_S}
    for role, times_s in sorted(toll.back_s.items()):
        median_s = statistics.median(times_s)
        rows.append(Row(f"{role}: kill to work, median", median_s, "s", limits.get(role)))
        rows.append(Row(f"{role}: kill to work, longest", max(times_s), "s"))
    if forgetting is not None:
        rows += [
            Row("greedy score before a learner's kill", forgetting.before, "return"),
            Row("greedy score after it", forgetting.after, "return"),
            Row("lost by it", forgetting.lost, "return", forgetting.noise),
        ]
    for role, (first, second) in sorted(halves.items()):
        memory = second.memory_bytes / max(first.memory_bytes, 1.0)
        limit = GROWN + SLACK_BYTES / max(first.memory_bytes, 1.0)
        rows.append(Row(f"{role}: memory, second half to first", memory, "×", limit))
        for what, one, two, limit in (
            ("file descriptors", first.descriptors, second.descriptors, MORE_DESCRIPTORS),
            ("threads", first.threads, second.threads, MORE_THREADS),
        ):
            rows.append(Row(f"{role}: {what}, second half less first", two - one, "", limit))
    return rows


def table(rows: Iterable[Row]) -> str:
    """For people."""
    cells = [("figure", "value", "unit", "limit", "of it")]
    for row in rows:
        share = "" if not row.limit else f"{row.value / row.limit:.2f}"
        limit = "" if row.limit is None else f"{row.limit:.4g}"
        broken = "" if row.holds else "  BROKEN"
        cells.append((row.figure, f"{row.value:.4g}", row.unit, limit, share + broken))
    widths = [max(len(line[i]) for line in cells) for i in range(5)]
    lines = [
        f"{line[0]:<{widths[0]}}  {line[1]:>{widths[1]}}  {line[2]:<{widths[2]}}  "
        f"{line[3]:>{widths[3]}}  {line[4]}".rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def write_json(path: Path, rows: Iterable[Row], **facts: object) -> None:
    """For scripts."""
    plain = [{**asdict(row), "holds": row.holds} for row in rows]
    path.write_text(json.dumps({**facts, "rows": plain}, indent=2) + "\n")
