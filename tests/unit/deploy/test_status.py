"""How a run goes, asked from outside, where the head answers, refuses or is silent."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import zmq

from common import transport
from common.errors import ConfigError, HeadUnreachable
from common.messages import Message, Refused, Status, StatusRequest
from deploy import status as command
from deploy.status import finite, status
from tests.contract.sockets import receive_with_prefix
from tests.unit.deploy.test_live_view import status as plain_status


class Head:
    """Answers every request with the next message, the last one again and again."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], answers: list[Message]) -> None:
        self._socket, self.address = transport.bind(context, zmq.ROUTER, "tcp://127.0.0.1:0")
        self._answers = answers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        turn = 0
        while not self._stop.is_set():
            if not self._socket.poll(20):
                continue
            peer, message = receive_with_prefix(self._socket)
            assert isinstance(message, StatusRequest)
            if self._answers:
                answer = self._answers[min(turn, len(self._answers) - 1)]
                transport.send(self._socket, answer, prefix=(peer,))
            turn += 1

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close(linger=0)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


def in_phase(phase: str, **learner: Any) -> Status:
    found = plain_status(**learner)
    found["learner"]["phase"] = phase
    return Status(found)


def test_a_script_gets_one_line_of_json(
    context: zmq.Context[zmq.Socket[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    # A loss that diverges is no number that JSON knows.
    with closing(Head(context, [in_phase("training", updates=7, loss=float("nan"))])) as head:
        assert status([head.address, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["env"] == "CartPole-v1"
    assert found["learner"]["updates"] == 7
    assert found["learner"]["loss"] is None


def test_a_run_is_shown_until_it_has_ended(
    context: zmq.Context[zmq.Socket[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[Message] = [in_phase("training", env_steps=5_000), in_phase("done")]
    with closing(Head(context, answers)) as head:
        assert status([head.address]) == 0
        first, facts, last = capsys.readouterr().out.splitlines()
        assert first == f"CartPole-v1, run a: {head.address}"
    assert "env steps 5,000" in facts
    assert last == "the run has ended"


def test_a_head_that_falls_silent_ends_the_view(
    context: zmq.Context[zmq.Socket[bytes]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([in_phase("training").status])
    monkeypatch.setattr(command, "_next", lambda client: next(answers, None))
    assert status(["tcp://127.0.0.1:9"]) == HeadUnreachable.exit_code
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == ("tcp://127.0.0.1:9 is silent: the run has ended, or its host cannot be reached")


@pytest.mark.parametrize(
    ("answers", "because"),
    [
        ([], "is the run over, or is this not its head's address?"),
        ([Refused("the peer speaks schema version 1")], "the peer speaks schema version 1"),
    ],
    ids=["silent", "refused"],
)
def test_who_gets_no_status_is_told_why(
    context: zmq.Context[zmq.Socket[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    answers: list[Message],
    because: str,
) -> None:
    monkeypatch.setattr(command, "PATIENCE_S", 10.0 if answers else 0.1)
    with closing(Head(context, answers)) as head:
        with pytest.raises(HeadUnreachable) as error:
            status([head.address])
        assert str(error.value).startswith(f"no status from {head.address}")
    assert str(error.value).endswith(because)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="'localhost' is no address"):
        status(["localhost"])


def test_json_has_no_word_for_what_is_no_number() -> None:
    value = {"a": [1, float("inf"), {"b": float("nan")}], "c": (2.5, "x", None, True)}
    assert finite(value) == {"a": [1, None, {"b": None}], "c": [2.5, "x", None, True]}
