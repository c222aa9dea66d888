"""Short sieges of a real run; `python -m tests.abuse --minutes N` holds the long ones."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.config import Config
from common.descriptors import raise_limit
from common.keys import Keys
from common.security import NOTHING_TOLD, Security
from tests.abuse.attacks import ATTACKS, Attack
from tests.abuse.knocking import KNOCKING
from tests.abuse.runs import RUN, in_threads, with_keys
from tests.abuse.siege import GROWTH_LIMIT_MB, Report, Siege, gaps, heard, ports_of
from tests.integration.runs import status, updates_beyond

SECONDS, SECONDS_WITH_KEYS = 6.0, 4.0
LINES_PER_SECOND = 60
"""That rejections may write: one for each reason and role."""


READ = (
    "replay_rejected_messages_total.undecodable",
    "replay_rejected_messages_total.shape",
    "replay_rejected_messages_total.non_finite",
    "replay_rejected_messages_total.unknown_kind",
    "head_rejected_messages_total.unknown_kind",
)
"""What attackers get to say to those who read them at all."""


def held(
    attacks: Sequence[Attack],
    run_dir: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    seconds: float,
    security: Security = NOTHING_TOLD,
    shown: Keys | None = None,
    counted: Sequence[str],
) -> Report:
    """What became of a run that was attacked, when all has held that must hold of any: among it,
    that these refusals were `counted`."""
    raise_limit()
    config = Config(**RUN)
    with in_threads(config, run_dir, security) as (head, process):
        ports = ports_of(head, config, security, shown)
        status(head, updates_beyond(0), security)
        siege = Siege(process, ports, security)
        with caplog.at_level(logging.WARNING):
            report = siege.hold(attacks, seconds)
            lines = len(caplog.records)
        # It goes on training, during and after, with all the processes that it began with.
        assert report.updates[-1] > report.updates[0]
        status(head, updates_beyond(report.updates[-1]), security)
        siege.after(counted)
    assert len(report.descriptors) == 6
    assert all(report.attempts[attack.__name__] > 0 for attack in attacks)
    # Neither memory nor logs grow without bound.
    assert max(report.growth_mb.values()) < GROWTH_LIMIT_MB, report.growth_mb
    assert lines < LINES_PER_SECOND * (report.seconds + 1.0)
    # And what honest actors sent is there, all of it.
    assert gaps(run_dir / "replay" / "storage", config) == {}
    return report


def test_a_run_trains_on_while_strangers_do_their_worst(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Every attack got through to somebody, and what it said was refused and counted.
    counted = (*READ, "inference_rejected_messages_total.non_finite")
    held(ATTACKS, tmp_path / "run", caplog, seconds=SECONDS, counted=counted)


def test_nobody_without_a_key_is_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own, _ = with_keys(tmp_path)
    attacks = (*ATTACKS, *KNOCKING)
    report = held(
        attacks, tmp_path / "run", caplog, seconds=SECONDS_WITH_KEYS, security=own,
        counted=[f"{role}_refused_peers_total" for role in ("head", "replay", "inference")],
    )  # fmt: skip
    assert not heard(report), report.rejected


def test_whoever_has_a_key_is_refused_by_reason_and_costs_nobody_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, insider = with_keys(tmp_path)
    report = held(
        ATTACKS, tmp_path / "run", caplog,
        seconds=SECONDS_WITH_KEYS, security=own, shown=insider.keys,
        counted=(*READ, "inference_refused_peers_total"),
    )  # fmt: skip
    # Inference is for processes with the run's own key: no client gets that far.
    assert not [name for name in report.rejected if name.startswith("inference_rejected")]
