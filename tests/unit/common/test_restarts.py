"""Histories of a role's endings, and what becomes of it.

A history is a line of words: "fails 20" is a failure after 20 s of being ready, "killed" a SIGKILL
before it ever was; "× 5" says it five times more.
"""

import signal
from pathlib import Path

import pytest

from common.restarts import Ending, MemoryWatch, Patience, RestartPolicy, Verdict

HOUR_S = 3600

CODES = {
    "fails": 4,
    "crashes": -signal.SIGSEGV,
    "vanishes": 0,  # os._exit(0) in the middle of a step.
    "killed": -signal.SIGKILL,
    "terminated": 128 + signal.SIGTERM,
    "stopped": -signal.SIGTERM,
    "interrupted": -signal.SIGINT,
    "hung-up": -signal.SIGHUP,
    "grew": 9,
    "starved": -signal.SIGKILL,
}


def endings(history: str, role: str = "actor") -> list[Ending]:
    found: list[Ending] = []
    for words in history.split(", "):
        event, _, times = words.partition(" × ")
        what, _, ready_for_s = event.partition(" ")
        ending = Ending(
            role=role,
            code=CODES[what],
            explained=what in ("fails", "grew"),
            ready_for_s=float(ready_for_s) if ready_for_s else None,
            out_of_memory=what == "starved",
        )
        found += [ending] * int(times or 1)
    return found


def play(
    history: str,
    role: str = "actor",
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> list[Verdict]:
    """Verdicts up to the end of the history, or of the run."""
    policy = RestartPolicy(patience)
    verdicts = []
    for ending in endings(history, role):
        verdicts.append(policy.decide(ending))
        if verdicts[-1].backoff_s is None:
            break
    return verdicts


@pytest.mark.parametrize(
    ("history", "restarts"),
    [
        # Whatever its period: 5 restarts, and the sixth failure ends the run.
        ("fails 0.1 × 100", 5),
        ("fails 20 × 100", 5),
        ("crashes 20 × 100", 5),
        ("vanishes 20 × 100", 5),
        ("starved 20 × 100", 5),
        # 119 s · 5 = 595 s of health between the first failure and the sixth.
        ("fails 119 × 100", 5),
        # Ready once and never again: it was not hopeless, but it is now broken.
        ("fails 1, fails × 100", 5),
        ("crashes × 100", 5),
        # It never was ready, and says why.
        ("fails × 100", 0),
        # Being killed now and then does not mend a broken role …
        ("fails 1, killed 1, fails 1, killed 1, fails 1, fails 1, killed 2, fails 1, fails 1", 8),
        # … and one that never gets to work is given up as well.
        ("killed × 100", 20),
        ("killed 0.5 × 100", 20),
        ("grew 0.5 × 100", 20),
    ],
)
def test_a_run_ends_when_a_role_does_nothing_but_die(history: str, restarts: int) -> None:
    *before, last = play(history)
    assert last.backoff_s is None
    assert len(before) == restarts
    assert all(verdict.backoff_s is not None for verdict in before)


@pytest.mark.parametrize(
    "history",
    [
        f"fails {HOUR_S} × {7 * 24}",
        "crashes 601 × 1000",
        # A soak: killed every ten seconds for an hour, or every three.
        "killed 6 × 360",
        "killed 1.5 × 1000",
        "terminated 6 × 360",
        "stopped 1 × 360",
        "interrupted 6 × 360",
        "hung-up 6 × 360",
        # The kills of a soak hit now one that is ready, now one that is starting.
        "killed, killed, killed 2, killed, killed 0.1, killed 30, killed × 15, killed 4, killed",
        # A leak that has an actor started again every five minutes.
        "grew 300 × 1000",
        # Health counts although it is interrupted from outside: 100 · 6 s = 600 s.
        "fails 1 × 5, killed 6 × 100, fails 1 × 5",
    ],
)
def test_a_role_that_works_in_between_is_always_started_again(history: str) -> None:
    verdicts = play(history)
    assert len(verdicts) == len(endings(history))
    assert all(verdict.backoff_s is not None for verdict in verdicts)


def test_patience_grows_with_a_row_of_failures_and_is_back_after_health() -> None:
    verdicts = play("fails 1 × 5, fails 600, killed × 8, killed 5")
    assert [verdict.backoff_s for verdict in verdicts] == [
        0.2, 0.4, 0.8, 1.6, 3.2,
        0.2,
        0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0,
        0.2,
    ]  # fmt: skip
    assert [verdict.tries for verdict in verdicts[3:8]] == [
        " (4 of 5)", " (5 of 5)", " (1 of 5)", "", "",
    ]  # fmt: skip
    assert play("fails 1 × 6")[-1].tries == " (5 restarts did not help)"
    assert play("fails")[-1].tries == ""


def test_a_learner_that_says_why_it_ended_would_say_so_again() -> None:
    assert play("fails 7200", role="learner") == [Verdict(None, "")]
    assert play("crashes 7200", role="learner")[-1].backoff_s == 0.2


ELSEWHERE = Patience(first_backoff_s=1.0, last_backoff_s=30.0, endless=True)


@pytest.mark.parametrize("what", ["fails 10", "killed 0.5"])
def test_a_host_may_be_away_for_days(what: str) -> None:
    verdicts = play(f"{what} × 5000", patience=ELSEWHERE)
    assert len(verdicts) == 5000
    assert [v.backoff_s for v in verdicts[:6]] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert [v.attempt for v in verdicts[:3]] == [1, 2, 3]
    assert verdicts[-1] == Verdict(30.0, "", 5000)


def test_what_lasted_is_forgiven_also_elsewhere() -> None:
    # 599 s are not ten minutes.
    verdicts = play("fails 10, fails 599, fails 600", patience=ELSEWHERE)
    assert [v.attempt for v in verdicts] == [1, 2, 1]


def test_each_row_has_a_policy_of_its_own() -> None:
    first, second = RestartPolicy(), RestartPolicy()
    (ending,) = endings("fails 1")
    assert [first.decide(ending).attempt for _ in range(3)] == [1, 2, 3]
    assert second.decide(ending).attempt == 1


def test_the_kernel_tells_of_kills_for_want_of_memory(tmp_path: Path) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 17\noom_kill 3\nswap_ra 0\n")
    watch = MemoryWatch(counters)
    assert not watch.ran_out()
    counters.write_text("pgfault 18\noom_kill 4\nswap_ra 0\n")
    assert watch.ran_out()
    assert not watch.ran_out()


def test_where_the_kernel_does_not_tell_nobody_is_said_to_have_run_out(tmp_path: Path) -> None:
    watch = MemoryWatch(tmp_path / "nowhere")
    assert not watch.ran_out()
