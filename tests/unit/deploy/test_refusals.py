"""What a run refused, put in order."""

from common.errors import Reason
from common.metric_table import SERIES
from deploy.refusals import HANDSHAKE, in_a_line, refusals

VALUES = {
    "learner_updates_total": 5.0,
    "head_rejected_messages_total": 1_234.0,
    "head_rejected_messages_total.flood": 1_200.0,
    "head_rejected_messages_total.shape": 30.0,
    "head_rejected_messages_total.range": 4.0,
    "replay_rejected_messages_total": 7.0,
    "replay_rejected_messages_total.shape": 7.0,
    "replay_rejected_messages_total.dtype": 0.0,
    "replay_refused_peers_total": 2.0,
    "head_refused_peers_total": 0.0,
}


def test_by_role_and_reason_the_most_first() -> None:
    assert list(refusals(VALUES).items()) == [
        (("head", "flood"), 1_200),
        (("head", "shape"), 30),
        (("replay", "shape"), 7),
        (("head", "range"), 4),
        (("replay", HANDSHAKE), 2),
    ]
    assert refusals({"learner_updates_total": 5.0}) == {}


def test_a_line_has_room_for_the_commonest_reasons_whoever_refused() -> None:
    assert in_a_line(refusals(VALUES)) == "1,243 (flood 1,200, shape 37, range 4, …)"
    few = {"replay_refused_peers_total": 2.0}
    assert in_a_line(refusals(few)) == "2 (handshake 2)"


def test_every_metric_of_refusals_is_found() -> None:
    """Those of all roles, whatever they are called."""
    metrics = [name for name in SERIES if ("rejected" in name and "." in name) or "refused" in name]
    assert len(metrics) > len(Reason)
    assert len(refusals(dict.fromkeys(metrics, 1.0))) == len(metrics)
