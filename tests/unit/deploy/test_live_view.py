"""What a run shows of itself where there is no terminal, and the rates in it."""

import os
import pty
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from deploy import live_view
from deploy.live_view import LINE_PERIOD_S, LiveView, Rates, show_return
from learner.status import LearnerCounters, RunStatus


def member(role: str, **values: float) -> dict[str, Any]:
    return {"role": role, "number": 0, "host": "h", "pid": 1, "num_envs": 4, "values": values}


def status(
    *members: dict[str, Any],
    target_return: float | None = 475.0,
    samples_per_insert: float | None = 8.0,
    train_return: float | None = 21.25,
    lost: dict[str, int] | None = None,
    refused: dict[str, float] | None = None,
    **learner: Any,
) -> dict[str, Any]:
    return RunStatus(
        run_id="a",
        env="CartPole-v1",
        wall_s=12.4,
        total_env_steps=10_000,
        target_return=target_return,
        samples_per_insert=samples_per_insert,
        replay_capacity=4_000,
        replay_bytes=1_234_000,
        learner=LearnerCounters(phase="training", **learner),
        train_return=train_return,
        episodes=3,
        members=list(members),
        lost=lost or {},
        refused=refused or {},
    ).to_plain()


class Clock:
    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(live_view, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def view(clock: Clock, capsys: pytest.CaptureFixture[str]) -> Iterator[LiveView]:
    with LiveView("CartPole-v1, seed 3: runs/a") as view:
        assert capsys.readouterr().out == "CartPole-v1, seed 3: runs/a\n"
        yield view


def facts(line: str) -> dict[str, str]:
    """The facts of a line by their names."""
    names = ("time", "greedy", "training return", "env steps", "updates", "replay",
             "samples/insert", "policy lag", "waiting", "members", "refused",
             "NOT SAVED")  # fmt: skip
    found = {}
    for part in line.strip().split("  "):
        (name,) = [name for name in names if part.startswith(f"{name} ")]
        found[name] = part.removeprefix(f"{name} ")
    return found


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (500.0, "500.0"),
        (123.456, "123.5"),
        (10.0, "10.0"),
        (-110.04, "-110.0"),
        (9.876, "9.88"),
        (-0.5, "-0.5"),
        (0.012345, "0.0123"),
        (0.0, "0"),
    ],
)
def test_a_return_is_shown_with_the_digits_that_tell_something(value: float, shown: str) -> None:
    assert show_return(value) == shown


def test_rates_are_differences_over_the_recent_past() -> None:
    rates = Rates()
    assert rates.per_second("steps") == 0.0
    rates.add(10.0, {"steps": 100.0})
    assert rates.per_second("steps") == 0.0
    rates.add(11.0, {"steps": 150.0})
    assert rates.per_second("steps") == 50.0  # (150 − 100) / 1
    rates.add(12.0, {"steps": 400.0})
    assert rates.per_second("steps") == 150.0  # (400 − 100) / 2
    # 10 s are remembered: the sample of 10 s is forgotten, that of 11 s is the oldest one.
    rates.add(21.0, {"steps": 1_650.0})
    assert rates.per_second("steps") == 150.0  # (1650 − 150) / 10
    assert rates.per_second("unheard of") == 0.0


def test_two_samples_make_a_rate_however_old_the_first_one_is() -> None:
    rates = Rates()
    rates.add(0.0, {"steps": 0.0})
    rates.add(100.0, {"steps": 50.0})
    assert rates.per_second("steps") == 0.5
    rates.add(101.0, {"steps": 80.0})
    assert rates.per_second("steps") == 30.0  # (80 − 50) / 1: the first one is forgotten.


def test_a_counter_that_begins_anew_or_a_clock_that_stands_still_is_no_rate() -> None:
    rates = Rates()
    rates.add(1.0, {"steps": 100.0, "updates": 5.0})
    rates.add(2.0, {"steps": 3.0, "updates": 5.0})
    assert (rates.per_second("steps"), rates.per_second("updates")) == (0.0, 0.0)
    rates = Rates()
    rates.add(1.0, {"steps": 1.0})
    rates.add(1.0, {"steps": 1.0})
    assert rates.per_second("steps") == 0.0


def test_a_status_is_one_line_of_facts(
    view: LiveView, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    replay_before = member("replay_server", replay_insert_blocked_seconds_total=4.0)
    view.update(status(replay_before, env_steps=1_000, updates=10))
    capsys.readouterr()
    clock.now_s += LINE_PERIOD_S
    view.update(
        status(
            # In 5 s actors waited (6.5 − 4)/5 of the time, the learner 0.5/5.
            member("replay_server", replay_insert_blocked_seconds_total=6.5),
            member("actor", actor_weights_version=100.0),
            member("actor", actor_weights_version=80.0),
            member("evaluator", weights_version=1.0),
            lost={"actor": 2, "evaluator": 1},
            refused={
                "head_rejected_messages_total.flood": 1_200.0,
                "head_refused_peers_total": 3.0,
            },
            env_steps=6_000,
            updates=110,
            table_size=3_000,
            inserted=5_000,
            sampled=38_000,
            experience_age=1_234.4,
            score=180.26,
            best_score=200.0,
            waited_s=0.5,
        )
    )
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert facts(out) == {
        "time": "12 s, training",
        "greedy": "180.3, best 200.0 (target 475)",
        "training return": "21.2",
        "env steps": "6,000 (1,000/s)",
        "updates": "110 (20/s)",
        "replay": "3,000 (75% of 1.2 MB)",
        "samples/insert": "7.6 of 8",
        # The mean of 110 − 100 and 110 − 80.
        "policy lag": "20 updates (experience 1,234)",
        "waiting": "actors 50%, learner 10% of the time",
        "members": "2 actors, lost so far: 3",
        "refused": "1,203 (flood 1,200, handshake 3)",
    }


def test_actors_of_several_replay_servers_wait_as_long_as_those_of_one(
    view: LiveView, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def servers(*waited_s: float) -> list[dict[str, Any]]:
        return [member("replay_server", replay_insert_blocked_seconds_total=s) for s in waited_s]

    view.update(status(*servers(4.0, 2.0)))
    capsys.readouterr()
    clock.now_s += LINE_PERIOD_S
    # Of 5 s, the inserts of one waited 1 s, those of the other 3 s.
    view.update(status(*servers(5.0, 5.0)))
    assert facts(capsys.readouterr().out)["waiting"] == "actors 40%, learner 0% of the time"


def test_what_waited_before_the_head_was_started_again_is_not_counted_once_more(
    view: LiveView, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    view.update(status())
    # It has joined, and not told anything.
    view.update(status(member("replay_server")))
    clock.now_s += 1.0
    view.update(status(member("replay_server", replay_insert_blocked_seconds_total=500.0)))
    capsys.readouterr()
    clock.now_s += 5.0
    view.update(status(member("replay_server", replay_insert_blocked_seconds_total=501.0)))
    assert facts(capsys.readouterr().out)["waiting"] == "actors 20%, learner 0% of the time"


def test_what_is_not_known_yet_is_not_made_up(
    view: LiveView, capsys: pytest.CaptureFixture[str]
) -> None:
    view.update(status(target_return=None, samples_per_insert=None, train_return=None))
    shown = facts(capsys.readouterr().out)
    assert shown["greedy"] == "–, best –"
    assert shown["training return"] == "–"
    assert shown["samples/insert"] == "0.0 of ∞"
    assert shown["policy lag"].startswith("0 updates")
    assert shown["members"] == "0 actors"


def test_what_cannot_be_saved_is_shown_as_long_as_it_cannot(
    view: LiveView, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble = "cannot write 00000300.safetensors (full): free space"
    view.update(status(trouble=trouble, failed_checkpoints=2))
    assert facts(capsys.readouterr().out)["NOT SAVED"] == f"2 times: {trouble}"
    clock.now_s += LINE_PERIOD_S
    view.update(status())
    assert "NOT SAVED" not in facts(capsys.readouterr().out)


def test_a_line_comes_now_and_then(
    view: LiveView, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for _ in range(5):
        view.update(status())
        view.update(None)
        lines.append(capsys.readouterr().out.count("\n"))
        clock.now_s += LINE_PERIOD_S / 2
    assert lines == [1, 0, 1, 0, 1]


def test_every_evaluation_is_announced_once(
    view: LiveView, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two were made before this view began, by the run that is resumed.
    view.update(status(evaluations=2, score=9.0))
    capsys.readouterr()
    for _ in range(2):
        view.update(status(evaluations=3, score=99.0))
    assert capsys.readouterr().out == "  12.4 s  evaluation 3: greedy return 99.0\n"


def test_a_long_line_is_not_broken_and_brackets_stay(
    view: LiveView, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "[bold]actor-0[/bold] " + "word " * 60 + "[0] :smile:"
    view.say(line)
    assert capsys.readouterr().out == f"{line}\n"


def test_the_head_is_shown_with_the_command_that_joins_it(
    view: LiveView, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    for address, shown in (
        ("tcp://127.0.0.1:5550", "tcp://127.0.0.1:5550"),
        ("tcp://0.0.0.0:5550", "tcp://box:5550"),
        ("ipc:///tmp/head", "ipc:///tmp/head"),
    ):
        view.show_head(address)
        expected = f"head at {shown} (more actors: python -m actor --connect {shown})\n"
        assert capsys.readouterr().out == expected


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "dumb")
    with os.fdopen(ours, "rb") as shown, os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        with LiveView("a title") as view:
            view.update(status(env_steps=7))
        said = b""
        # A pseudo-terminal hands on what is written in its own time, and in pieces.
        while b"env steps 7" not in said:
            said += os.read(shown.fileno(), 4096)
