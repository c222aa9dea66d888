"""A run with keys, open to all interfaces: as processes, from the command that makes the keys to
the one that takes one away. One run serves all tests.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.errors import HeadUnreachable
from common.keys import add_client, make_directory, open_keys, revoke_client
from common.security import Security
from deploy.status import status
from deploy.status_client import StatusClient
from tests.integration.runs import (
    ENDLESS,
    PACED,
    Command,
    Status,
    log_of,
    until,
    updates_beyond,
    write_preset,
)


@dataclass
class Keyed:
    """A launched run; alice's actor and bob's have joined it by hand."""

    directory: Path
    launch: Command
    head: str
    commands: list[Command]

    @property
    def keys(self) -> Path:
        return self.directory / "keys"

    def actor(self, *words: str) -> Command:
        self.commands.append(Command(self.directory, "actor", "--connect", self.head, *words))
        return self.commands[-1]

    def status(self, that: Callable[[Status], bool] = lambda _: True) -> Status:
        with closing(
            StatusClient(self.head, security=Security(open_keys(self.keys, {})))
        ) as client:

            def answer() -> Status | None:
                latest = client.latest()
                return latest if latest is not None and that(latest) else None

            return until(answer, "the status that is waited for")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    directory = tmp_path_factory.mktemp("keyed")
    preset = write_preset(
        directory / "tiny.toml", total_env_steps=ENDLESS, replay_capacity=100_000, **PACED
    )
    make_directory(directory / "keys")
    for name in ("alice", "bob"):
        add_client(directory / "keys", name, directory / f"{name}.key")
    commands: list[Command] = []
    try:
        launch = Command(
            directory, "deploy", "launch", "--preset", preset, "--run-dir", "run",
            "--keys", "keys", "--bind", "tcp://0.0.0.0:0",
        )  # fmt: skip
        commands.append(launch)
        port = launch.line("head at tcp://").split()[2].rpartition(":")[2]
        run = Keyed(directory, launch, f"tcp://127.0.0.1:{port}", commands)
        run.actor("--keys", "alice.key", "--envs", "2")
        run.actor("--keys", "bob.key", "--envs", "3")
        yield run
    finally:
        for command in commands:
            command.kill_family()


def joined(now: Status) -> list[int]:
    """Environments of those that joined by hand and have acted."""
    return sorted(
        m["num_envs"]
        for m in now["members"]
        if m["role"] == "actor" and m["num_envs"] < 4 and m["values"].get("actor_env_steps_total")
    )


def error_of(command: Command, exit_code: int) -> str:
    assert command.wait() == exit_code
    lines = command.output().splitlines()
    assert "Traceback" not in command.output()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    return lines[-1].removeprefix("error: ")


def test_whoever_has_a_key_trains_along(run: Keyed) -> None:
    now = run.status(lambda now: joined(now) == [2, 3] and updates_beyond(50)(now))
    assert len(now["members"]) == 5


def test_every_log_begins_with_what_holds(run: Keyed) -> None:
    said = "connections are encrypted and authenticated"
    for role in ("learner", "replay_server", "actor-0", "evaluator", "launcher"):
        first = log_of(run.directory / "run", role).splitlines()[0]
        assert f"keys of keys/server.key: {said}" in first
    first = run.commands[-2].output().splitlines()[0]
    assert f"keys of alice.key: {said}" in first


def test_status_is_told_to_who_has_a_key(run: Keyed, capsys: pytest.CaptureFixture[str]) -> None:
    assert status([run.head, "--json", "--keys", str(run.directory / "bob.key")]) == 0
    assert json.loads(capsys.readouterr().out)["env"] == PACED["env"]
    with pytest.raises(HeadUnreachable, match="wants a key: make one there"):
        status([run.head, "--json"])


def test_whoever_has_none_or_the_wrong_one_is_told_so_in_one_line(run: Keyed) -> None:
    make_directory(run.directory / "other")
    add_client(run.directory / "other", "eve", run.directory / "eve.key")
    (run.directory / "readable.key").write_bytes((run.directory / "bob.key").read_bytes())
    (run.directory / "readable.key").chmod(0o604)
    cases = [
        (run.actor(), 5, f"{run.head} wants a key: make one there with python -m deploy keys add"),
        (run.actor("--keys", "eve.key"), 5, f"{run.head} is another server than the one that"),
        (run.actor("--keys", "none.key"), 2, "there is no none.key: make a key directory"),
        (run.actor("--keys", "readable.key"), 2, "readable.key can be read by others (mode 0604)"),
        (run.actor("--keys", "tiny.toml"), 2, "tiny.toml "),
    ]  # fmt: skip
    for command, exit_code, words in cases:
        assert error_of(command, exit_code).startswith(words)
    # They did not get through, and that was counted and written down.
    until(lambda: "refused a peer at" in log_of(run.directory / "run", "learner"), "a word of it")
    metrics = run.directory / "run" / "metrics.jsonl"
    until(
        lambda: _newest(metrics).get("head_refused_peers_total", 0) >= 2, "the refusals are counted"
    )


def _newest(metrics: Path) -> dict[str, float]:
    for line in reversed(metrics.read_text().splitlines()):
        with suppress(ValueError):
            values: dict[str, float] = json.loads(line)
            return values
    return {}


def test_no_secret_is_in_a_log_a_result_a_command_line_or_a_status(run: Keyed) -> None:
    told = json.dumps(run.status())
    lines = [" ".join(process.cmdline()) for c in run.commands for process in c.family()]
    files = (path for path in (run.directory / "run").rglob("*") if path.is_file())
    # Checkpoints come and go, and hold what their own tests say.
    written = [path for path in files if "checkpoints" not in path.parts]
    assert {"config.toml", "learner.log", "metrics.jsonl"} < {path.name for path in written}
    printed = [command.output() for command in run.commands]
    for file in ("keys/server.key", "alice.key", "bob.key"):
        keys = open_keys(run.directory / file, {})
        assert keys is not None
        secret = keys.secret
        for text in (told, *lines, *printed):
            assert secret.decode() not in text
        for path in written:
            assert secret not in path.read_bytes()


def test_whoever_is_revoked_is_out_within_seconds_and_the_run_goes_on(run: Keyed) -> None:
    bob = next(c for c in run.commands if "bob.key" in c.process.args)  # type: ignore[operator]
    before = run.status(lambda now: joined(now) == [2, 3])
    revoke_client(run.keys, "bob")
    assert "does not allow the key of bob.key: it was revoked there" in error_of(bob, 5)
    updates = before["learner"]["updates"]
    after = run.status(
        lambda now: (
            updates_beyond(updates + 50)(now)
            # Every step that reached the replay is counted once: nothing came twice.
            and now["learner"]["env_steps"] == now["learner"]["inserted"]
        )
    )
    # The others are the same processes as before; bob's is missed when it has been silent for long.
    others = {m["pid"] for m in before["members"] if m["num_envs"] != 3}
    assert others <= {m["pid"] for m in after["members"]} <= {m["pid"] for m in before["members"]}
    assert len(others) == 4
    assert run.launch.process.poll() is None
    assert "restarting" not in run.launch.output()
    back = run.actor("--keys", "bob.key")
    assert "does not allow the key of bob.key" in error_of(back, 5)
