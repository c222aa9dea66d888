"""A short siege of a real run; `python -m tests.abuse --minutes N` is the long one."""

import logging
from pathlib import Path

import pytest

from common.config import Config
from common.descriptors import raise_limit
from tests.abuse.attacks import ATTACKS
from tests.abuse.runs import RUN, in_threads
from tests.abuse.siege import GROWTH_LIMIT_MB, Siege, gaps, ports_of
from tests.integration.runs import status, updates_beyond

SECONDS = 6.0
LINES_PER_SECOND = 60
"""That rejections may write: one for each reason and role."""


def test_a_run_trains_on_while_strangers_do_their_worst(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raise_limit()
    config = Config(**RUN)
    with in_threads(config, tmp_path / "run") as (head, process):
        ports = ports_of(head, config)
        status(head, updates_beyond(0))
        siege = Siege(process, ports)
        with caplog.at_level(logging.WARNING):
            report = siege.hold(ATTACKS, SECONDS)
            lines = len(caplog.records)
        # It goes on training, during and after, with all the processes that it began with.
        assert report.updates[-1] > report.updates[0]
        status(head, updates_beyond(report.updates[-1]))
        siege.after()
    assert len(report.descriptors) == 6
    # Every attack got through to somebody, and what it said was refused and counted.
    assert all(report.attempts[attack.__name__] > 0 for attack in ATTACKS)
    for reason in ("undecodable", "shape", "non_finite", "unknown_kind"):
        assert report.rejected[f"replay_rejected_messages_total.{reason}"] > 0
    assert report.rejected["head_rejected_messages_total"] > 0
    assert report.rejected["inference_rejected_messages_total.non_finite"] > 0
    # Neither memory nor logs grow without bound.
    assert max(report.growth_mb.values()) < GROWTH_LIMIT_MB, report.growth_mb
    assert lines < LINES_PER_SECOND * (report.seconds + 1.0)
    # And what honest actors sent is there, all of it.
    assert gaps(tmp_path / "run" / "replay" / "storage", config) == {}
