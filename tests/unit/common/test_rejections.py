"""Rejections are counted one by one and told in few lines."""

import logging

import pytest

from common.errors import MalformedMessage, Reason, SchemaMismatch, WireError
from common.metric_table import METRICS, SERIES
from common.metrics import ROLES
from common.rejections import Rejections, quoted

NAME = "actor_rejected_messages_total"
SHAPE = MalformedMessage("too long", Reason.SHAPE)


def test_each_is_counted_by_its_reason() -> None:
    rejections = Rejections(NAME)
    assert rejections.values() == {NAME: 0}
    for error in (SHAPE, SHAPE, SchemaMismatch("1"), MalformedMessage("?"), WireError("no")):
        rejections.count(error, 0.0)
    assert rejections.values() == {
        NAME: 5,
        f"{NAME}.shape": 2,
        f"{NAME}.schema": 1,
        f"{NAME}.undecodable": 1,
        f"{NAME}.refused": 1,
    }


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_counter_with_all_reasons(role: str) -> None:
    metric = METRICS[f"{role}_rejected_messages_total"]
    assert (metric.label, metric.parts) == ("reason", tuple(Reason))
    for reason in Reason:
        assert SERIES[f"{metric.name}.{reason}"] is metric


def test_a_flood_is_a_line_for_each_reason_and_second(caplog: pytest.LogCaptureFixture) -> None:
    rejections = Rejections(NAME)
    with caplog.at_level(logging.WARNING):
        for i in range(30_000):
            rejections.count(SHAPE, i * 1e-4)  # Three seconds, 10,000 in each.
            rejections.count(WireError(f"no {i}"), i * 1e-4)
        rejections.count(SHAPE, 3.5)
    lines = [line for line in caplog.messages if "(shape)" in line]
    assert lines == [
        "rejected a message (shape): too long",
        *["rejected a message (shape): too long, and 9999 others since the line before"] * 3,
    ]
    assert len(caplog.messages) == 7
    assert rejections.total == 60_001


def test_a_line_is_short_whatever_the_message_was(caplog: pytest.LogCaptureFixture) -> None:
    Rejections(NAME).count(WireError("x\n" * 100_000), 0.0)
    (line,) = caplog.messages
    assert len(line) < 400
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("host-7", "host-7"),
        ("δ ≥ 0", "δ ≥ 0"),
        ("a\nb\x1b[2J\x00", "a�b�[2J�"),
        ("x" * 1_000_000, "x" * 300),
    ],
)
def test_what_a_stranger_wrote_is_quoted_without_control_characters(text: str, shown: str) -> None:
    assert quoted(text) == shown
