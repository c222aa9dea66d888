"""Text and tables of the page."""

import re

from deploy.dashboard import panels
from deploy.dashboard.catalogue import State
from deploy.dashboard.difference import settings
from deploy.dashboard.flows import Flows
from tests.unit.deploy.dashboard.views import view

EVIL = "<img src=x onerror=alert(1)>"


def test_whatever_a_run_is_called_it_is_shown_as_text() -> None:
    run = view(EVIL, env=EVIL).run
    found = settings({"env": EVIL}, {"env": "x"})
    for html in (
        panels.title(run, EVIL),
        panels.settings(found, EVIL, EVIL, only=True),
        panels.notes([EVIL]),
    ):
        assert "<img" not in html
        assert "&lt;img" in html


def test_the_figures_that_tell_most_and_those_of_a_second_run_below() -> None:
    newest = {"learner_best_score": 200.0, "head_training_return": 21.25, "updates": 40}
    mine = view(flows=Flows(env_steps=3_210.0, inserts=100.0, samples=3_150.0), newest=newest)
    html = panels.tiles(mine, view("b", score=None))
    for text in ("123.4", "best 200.0, target 475", "21.2", "12.3k", "of 1M", "3,210", "31.5",
                 "of 32", "67 s"):  # fmt: skip
        assert f">{text}<" in html
    assert '<dd class="theirs">–</dd>' in html
    assert "theirs" not in panels.tiles(mine, None)


def test_a_row_keeps_its_numbers_to_sort_by_and_says_whether_it_is_chosen() -> None:
    rows = panels.rows([view("a").run, view("b").run, view("c").run], "b", "c")
    assert [row["chosen"] for row in rows] == ["", "chosen", "other"]
    assert rows[0]["score"] == 123.4
    assert rows[0]["env_steps"] == 12_345


def test_equal_settings_are_left_out_if_wanted() -> None:
    found = settings({"seed": 1, "env": "A"}, {"seed": 2, "env": "A"})
    assert "env" not in panels.settings(found, "a", "b", only=True)
    assert "env" in panels.settings(found, "a", "b", only=False)
    same = settings({"seed": 1}, {"seed": 1})
    assert "the same" in panels.settings(same, "a", "b", only=True)
    assert "no configuration" in panels.settings([], "a", None, only=True)
    # Alone, a run's configuration is whole.
    assert "seed" in panels.settings(settings({"seed": 1}), "a", None, only=True)


def test_how_full_the_replay_is() -> None:
    newest = {
        "replay_transitions": 1_600.0,
        "replay_priorities_total": 900.0,
        "replay_stale_priorities_total": 100.0,
        "head_policy_lag_updates": 21.0,
    }
    html = panels.fill(view(newest=newest, flows=Flows(learner_waits=0.25)))
    assert 'aria-valuenow="25"' in html  # 1600 of 100 blocks of 64
    for fact in ("1,600 of 6,400", "10.0%", "21 updates", "25%", "–, –"):
        assert f"<td>{fact}</td>" in html
    assert "nothing is known" in panels.fill(view())


def test_what_was_refused_by_whom_and_why_the_most_first() -> None:
    newest = {
        "head_rejected_messages_total": 1_204.0,
        "head_rejected_messages_total.flood": 1_200.0,
        "head_rejected_messages_total.shape": 4.0,
        "replay_rejected_messages_total": 0.0,
        "replay_refused_peers_total": 30.0,
    }
    html = panels.refused(view(newest=newest))
    found = re.findall(r"<th[^>]*>([^<]*)</th><td>([^<]*)</td>", html)
    assert found == [("head: flood", "1,200"), ("replay: handshake", "30"), ("head: shape", "4")]
    assert "every message was accepted" in panels.refused(view())


def test_what_a_learner_does_other_than_train_is_said() -> None:
    run = view(state=State.RUNNING).run
    assert "running, waiting" in panels.title(run, "waiting")
    assert "running<" in panels.title(run, "training")
