"""What no head could have said is not believed."""

from dataclasses import replace
from typing import Any

import pytest

from common.errors import MalformedMessage, Reason
from common.messages import Directive, Welcome
from common.welcome import check_directive, check_welcome
from tests.head_with_peers import MANIFEST

REPLAY = "tcp://[::1]:7000"
GOOD = Welcome(1, 0, 0, 0, 0, 8, MANIFEST.to_plain(), "inproc://weights", REPLAY, "ipc:///tmp/x")
DIRECTIVE = Directive(1, "run", 8, REPLAY)


def test_a_good_one_brings_the_manifest() -> None:
    assert check_welcome(GOOD, "actor") == MANIFEST
    check_directive(DIRECTIVE)
    # A replay server is taken in before anybody serves.
    assert check_welcome(replace(GOOD, replay_endpoint=""), "replay_server") == MANIFEST


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"session": -1}, Reason.RANGE),
        *[
            ({name: value}, Reason.RANGE)
            for name in ("number", "epoch", "incarnation", "first_env_index", "ladder_size")
            for value in (-1, 1 << 31, (1 << 63) - 1)
        ],
        ({"replay_endpoint": ""}, Reason.RANGE),
        ({"replay_endpoint": "tcp://[::1"}, Reason.RANGE),
        ({"replay_endpoint": "tcp://[1.2]:80"}, Reason.RANGE),
        ({"weights_endpoint": "http://x"}, Reason.RANGE),
        ({"weights_endpoint": "ipc:///a\0b"}, Reason.RANGE),
        ({"inference_endpoint": "tcp://x:99999"}, Reason.RANGE),
        ({"relay_endpoint": "tcp://x:99999"}, Reason.RANGE),
        ({"manifest": {}}, Reason.FIELD),
        ({"manifest": {**MANIFEST.to_plain(), "config": {"actors": -1}}}, Reason.RANGE),
        ({"manifest": {**MANIFEST.to_plain(), "spec": {}}}, Reason.FIELD),
    ],
)
def test_a_welcome_that_cannot_be_is_refused(changes: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(MalformedMessage) as caught:
        check_welcome(replace(GOOD, **changes), "actor")
    assert caught.value.reason is reason
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "changes",
    [
        {"run_state": "sudo"},
        {"ladder_size": -8},
        {"replay_endpoint": "\n"},
        {"inference_endpoint": "tcp://"},
    ],
)
def test_a_directive_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        check_directive(replace(DIRECTIVE, **changes))
