"""Every role by hand: `python -m learner`, `replay_server` and `actor`, each a process of its own.

One run serves all tests. Its environments crawl as long as a file is there, so that it is still
under way whenever a test wants something of it; the last test lets it go.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zmq

from common import transport
from common.messages import Join, Leave, Refused, Welcome
from tests.integration.runs import (
    Command,
    checkpoints_of,
    free_ports,
    result_of,
    status,
    until,
    write_preset,
)


@dataclass
class ByHand:
    """A run of four processes: a learner and what joined it."""

    directory: Path
    head: str
    replay: str
    hold: Path
    commands: dict[str, Command]

    def start(self, name: str, *words: str) -> Command:
        self.commands[name] = Command(self.directory, *words)
        return self.commands[name]

    def ask(self, message: Join) -> Welcome | Refused:
        """What the head answers to a join. Whoever was taken in leaves at once."""
        with zmq.Context() as context:
            socket = transport.connect(context, zmq.DEALER, self.head)
            transport.send(socket, message)
            answer = until(lambda: transport.receive(socket), "the head's answer")
            assert isinstance(answer, Welcome | Refused)
            if isinstance(answer, Welcome):
                transport.send(socket, Leave(answer.session, "only asked"))
            socket.close()
        return answer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByHand]:
    directory = tmp_path_factory.mktemp("by-hand")
    hold = directory / "hold"
    hold.touch()
    preset = write_preset(
        directory / "tiny.toml",
        env="tests.integration.environments:Paced-v0",
        env_kwargs={"hold": str(hold), "delay_s": 0.1},
        total_env_steps=3_000,
        min_size_to_sample=50,
        actors=2,
    )
    port = free_ports(3)  # The learner's weights take the port after its own.
    head, replay = f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 2}"
    run = ByHand(directory, head, replay, hold, {})
    try:
        run.start("learner", "learner", "--config", preset, "--run-dir", "run", "--bind", head)
        run.start("replay_server", "replay_server", "--connect", head, "--bind", replay)
        run.start("evaluator", "actor", "--connect", head, "--evaluator")
        run.start("actor", "actor", "--connect", head)
        run.commands["actor"].line("joined the run run as actor 0")
        yield run
    finally:
        for command in run.commands.values():
            command.kill_family()


def probe(num_envs: int, role: str = "actor") -> Join:
    return Join(role, "elsewhere", 1, num_envs, -1, take_over=False, token=secrets.randbits(62))


def test_another_actor_gets_the_next_stretch_of_the_ladder_and_gives_it_back(run: ByHand) -> None:
    # The configuration expects 2 actors · 4 environments: M = 8. The first one stands on 0 … 3.
    extra = run.start("extra", "actor", "--connect", run.head, "--envs", "6")
    extra.line("joined the run run as actor 1")
    # It got 4 … 9, for a third one with 3 environments would stand on 10 … 12.
    third = run.ask(probe(3))
    assert isinstance(third, Welcome)
    assert (third.number, third.first_env_index, third.ladder_size) == (2, 10, 13)
    assert third.replay_endpoint == run.replay
    status(run.head, lambda now: any(_steps(m) > 0 for m in now["members"] if m["num_envs"] == 6))
    extra.process.terminate()
    assert extra.wait() == 0
    run.commands["learner"].line("actor 1 left")
    third = run.ask(probe(3))
    assert isinstance(third, Welcome)
    assert (third.number, third.first_env_index, third.ladder_size) == (1, 4, 8)


def test_an_actor_of_another_release_is_refused_in_one_line(run: ByHand) -> None:
    driver = run.directory / "other_release.py"
    driver.write_text(
        "import common.codec, actor.__main__\n"
        "common.codec.SCHEMA_VERSION = 999\n"
        "raise SystemExit(actor.__main__.main())\n"
    )
    actor = run.start("other release", "other_release", "--connect", run.head)
    assert actor.wait() == 5
    (line,) = actor.output().splitlines()
    assert line.startswith(f"error: the head at {run.head} cannot be joined: the peer speaks")
    assert "run the same zapex release on every host" in line
    assert "rejected a message (schema)" in run.commands["learner"].line("schema version 999")


def test_a_second_replay_server_is_refused_in_one_line(run: ByHand) -> None:
    bind = ("--bind", "tcp://127.0.0.1:0")
    second = run.start("second", "replay_server", "--connect", run.head, *bind)
    assert second.wait() == 5
    assert _error(second).startswith("error: the head at")
    assert "this run has its replay server" in _error(second)


@pytest.mark.parametrize(
    "words",
    [
        ("replay_server", "--connect", "HEAD", "--bind", "REPLAY"),
        ("learner", "--run-dir", "another", "--bind", "HEAD"),
    ],
    ids=lambda words: words[0],
)
def test_a_busy_port_is_said_in_one_line(run: ByHand, words: tuple[str, ...]) -> None:
    addresses = {"HEAD": run.head, "REPLAY": run.replay}
    command = run.start(f"busy {words[0]}", *(addresses.get(w, w) for w in words))
    assert command.wait() == 6
    assert f"{addresses[words[-1]]} is in use by another process" in _error(command)


def test_an_unknown_role_is_refused(run: ByHand) -> None:
    answer = run.ask(probe(0, role="referee"))
    assert isinstance(answer, Refused)
    assert "'referee' is unknown" in answer.reason


def test_they_train_until_the_budget_is_spent_and_all_end_well(run: ByHand) -> None:
    run.hold.unlink()
    roles = ("learner", "replay_server", "evaluator", "actor")
    assert {name: run.commands[name].wait() for name in roles} == dict.fromkeys(roles, 0)
    for name in roles:
        assert run.commands[name].nothing_left()
        assert "Traceback" not in run.commands[name].output()
    result = result_of(run.directory / "run")
    assert (result["reason"], result["eval_episodes"]) == ("budget", 2)
    assert result["env_steps"] >= 3_000
    assert result["learner_updates"] > 300
    assert checkpoints_of(run.directory / "run")[-1] == result["learner_updates"]
    # Each action 1 is rewarded and nothing else matters: 10 in an episode of 10 steps.
    assert max(e["return_mean"] for e in result["evaluations"]) == 10.0
    assert "actor 0 left: stopped" in run.commands["learner"].output()


def _steps(member: dict[str, Any]) -> float:
    """Environment steps it has taken, as its heartbeats say."""
    return float(member["values"].get("actor_env_steps_total", 0.0))


def _error(command: Command) -> str:
    """The one line that says what was wrong; the log may stand before it."""
    output = command.output()
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert output.splitlines()[-1] == line
    return line
