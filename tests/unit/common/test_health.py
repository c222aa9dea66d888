"""Who is alive, and who only looks so."""

import socket
import threading
import urllib.error
import urllib.request
from contextlib import closing

import pytest

from common import health
from common.exporter import Exporter, MetricsOptions
from common.health import LIMIT_S, Health


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("turned_s_ago", "in_the_run", "live", "ready"),
    [
        ({}, False, True, False),  # Just started.
        ({"loop": 0.0}, False, True, False),  # Waits for a head.
        ({"loop": 0.0}, True, True, True),
        ({"loop": LIMIT_S - 1.0}, True, True, True),  # A long turn.
        ({"loop": LIMIT_S}, True, False, False),  # Hangs.
        ({"training": 0.0, "control": LIMIT_S}, True, False, False),  # One of two does.
    ],
)
def test_health(turned_s_ago: dict[str, float], in_the_run: bool, live: bool, ready: bool) -> None:
    clock = Clock()
    found = Health(clock)
    found.in_the_run = in_the_run
    now_s = clock.now_s
    for loop, ago_s in turned_s_ago.items():
        clock.now_s = now_s - ago_s
        found.turned(loop)
    clock.now_s = now_s
    assert [found.answer(path)[0] for path in ("/livez", "/readyz")] == [live, ready]


def test_a_start_that_takes_for_ever_is_no_life() -> None:
    clock = Clock()
    found = Health(clock)
    clock.now_s += LIMIT_S
    assert found.answer("/livez") == (False, "not in the run; start 60.0 s ago")


def test_whoever_turns_is_not_asked_how_long_it_runs() -> None:
    clock = Clock()
    found = Health(clock)
    clock.now_s += 10 * LIMIT_S
    found.turned()
    assert found.answer("/livez") == (True, "not in the run; loop 0.0 s ago")


def status_of(endpoint: str, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{endpoint}{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with closing(error):
            return error.code


@pytest.fixture
def exporter() -> Exporter:
    pytest.importorskip("prometheus_client")
    return Exporter(MetricsOptions(metrics_port=0))


def test_it_is_told_beside_the_metrics(exporter: Exporter) -> None:
    with closing(exporter):
        assert status_of(exporter.endpoint, "/livez") == 200
        assert status_of(exporter.endpoint, "/readyz") == 503
        exporter.health.in_the_run = True
        assert status_of(exporter.endpoint, "/readyz") == 200
        assert status_of(exporter.endpoint, "/metrics") == 200


def test_it_is_told_to_those_who_have_no_token(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kubelet shows none. What it hears is no secret."""
    exporter.close()
    monkeypatch.setenv("ZAPEX_METRICS_TOKEN", "secret")
    with closing(Exporter(MetricsOptions(0, "0.0.0.0"))) as guarded:
        port = guarded.endpoint.rpartition(":")[2]
        assert status_of(f"127.0.0.1:{port}", "/metrics") == 401
        assert status_of(f"127.0.0.1:{port}", "/livez") == 200


def test_the_command_ends_as_docker_wants_it(
    exporter: Exporter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = exporter.endpoint.rpartition(":")[2]
    with closing(exporter):
        assert health.main([port]) == 0
        assert capsys.readouterr().out.startswith("not in the run; start ")
        monkeypatch.setattr(health, "LIMIT_S", 0.0)
        assert health.main([port]) == 1


def test_the_command_says_that_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert health.main([str(port)]) == 1
    assert capsys.readouterr().out.startswith(f"nobody answers at port {port}: ")


def test_another_program_that_listens_there_is_not_taken_for_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            with other.accept()[0] as connection:
                connection.recv(1_000)
                connection.sendall(b"220 mail.example ESMTP 200\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        assert health.main([str(other.getsockname()[1])]) == 1
        answering.join()


def test_a_process_that_does_not_speak_is_not_waited_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert health.main([str(silent.getsockname()[1])]) == 1
    assert "timed out" in capsys.readouterr().out
