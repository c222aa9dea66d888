"""`python -m deploy head`: a head that something else starts, again and again."""

import contextlib
import signal
import urllib.request
from pathlib import Path

import psutil

from deploy.head import make_keys
from tests.integration.conftest import Start
from tests.integration.runs import ENDLESS, free_ports, result_of, until, write_preset


def learner_of(head: int) -> psutil.Process | None:
    """The process of `python -m learner` that a head started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(head).children():
            if child.cmdline()[1:3] == ["-m", "learner"]:
                return child
    return None


def test_a_learner_that_is_killed_resumes_and_a_signal_stops_both(
    start: Start, tmp_path: Path
) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS)
    port = free_ports(2)
    words = ("--run-dir", "run", "--bind", f"tcp://127.0.0.1:{port}", "--seed", "7")
    head = start("deploy", "head", "--preset", preset, *words)
    head.line("checkpoint run/checkpoints/00000000")
    learner = until(lambda: learner_of(head.process.pid), "its learner")
    learner.kill()
    head.line("head: the learner was killed by signal 9: it goes on from its newest checkpoint")
    head.line("resumed from run/checkpoints/00000000")
    head.process.terminate()
    # As a learner's: stopped before the target was reached, or there is none.
    assert head.wait() == 0
    assert learner_of(head.process.pid) is None
    result = result_of(tmp_path / "run")
    assert (result["reason"], result["seed"]) == ("stopped", 7)


def test_when_it_is_killed_its_learner_ends_and_the_next_goes_on(
    start: Start, tmp_path: Path
) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS)
    words = ("deploy", "head", "--preset", preset, "--run-dir", "run")
    bind = ("--bind", f"tcp://127.0.0.1:{free_ports(2)}")
    head = start(*words, *bind)
    head.line("checkpoint run/checkpoints/00000000")
    head.process.kill()
    assert head.nothing_left()
    start(*words, *bind).line("resumed from run/checkpoints/00000000")


def test_it_ends_with_its_input_if_it_is_told_to(start: Start, tmp_path: Path) -> None:
    """That of a test's commands has ended before they begin."""
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS)
    bind = ("--bind", f"tcp://127.0.0.1:{free_ports(2)}")
    head = start("deploy", "head", "--preset", preset, "--run-dir", "run", *bind, "--stop-at-eof")
    # Its learner may not have got to hear signals.
    assert head.wait() in (0, 128 + signal.SIGTERM)
    assert head.nothing_left()


def test_errors_that_a_learner_explains_are_final(start: Start, tmp_path: Path) -> None:
    head = start("deploy", "head", "--run-dir", "run", "--batch-size", "0")
    assert head.wait() == 2
    assert head.output().count("batch_size") == 1


def test_a_run_of_another_environment_is_not_gone_on_with(
    start: Start, tmp_path: Path, finished_run: Path
) -> None:
    head = start("deploy", "head", "--preset", "acrobot", "--run-dir", str(finished_run))
    assert head.wait() == 7
    assert "holds a run of CartPole-v1, and Acrobot-v1 is wanted" in head.output()


def test_a_head_whose_run_has_ended_lingers_and_answers(
    start: Start, tmp_path: Path, finished_run: Path
) -> None:
    port = free_ports(1)
    head = start(
        "deploy", "head", "--run-dir", str(finished_run), "--linger", "--metrics-port", str(port)
    )  # fmt: skip
    head.line(f"the run in {finished_run} has ended: see {finished_run}/result.json")
    head.line("head: waiting to be stopped")

    def answered() -> bytes | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5) as answer:
                read: bytes = answer.read()
        except OSError:
            return None
        return read

    assert until(answered, "an answer").startswith(b"not in the run; ")
    head.process.terminate()
    assert head.wait() == 0


def test_keys_are_made_once(tmp_path: Path) -> None:
    """A volume that came back without the client's file gets a new one, under the same name."""
    client = tmp_path / "client" / "actors.key"
    client.parent.mkdir()
    environment = {"ZAPEX_KEYS": str(tmp_path / "keys")}
    make_keys(client, environment)
    server_key = (tmp_path / "keys" / "server.key").read_text()
    first = client.read_text()
    make_keys(client, environment)
    assert client.read_text() == first
    client.unlink()
    make_keys(client, environment)
    assert client.read_text() != first
    assert (tmp_path / "keys" / "server.key").read_text() == server_key
    assert [p.name for p in (tmp_path / "keys" / "clients").iterdir()] == ["actors.pub"]


def test_a_client_key_wants_a_key_directory(start: Start) -> None:
    head = start("deploy", "head", "--run-dir", "run", "--client-key", "actors.key")
    assert head.wait() == 2
    assert "--client-key needs ZAPEX_KEYS, the run's key directory" in head.output()
