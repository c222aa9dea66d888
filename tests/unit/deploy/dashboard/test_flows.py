"""Rates and waiting times out of counters, and what is said about them."""

from typing import Any

import pytest

from deploy.dashboard.flows import NOTHING, Flows, diagnosis, flows


def line(wall_s: float, env_steps: int, updates: int, **values: float) -> dict[str, Any]:
    return {"wall_s": wall_s, "env_steps": env_steps, "updates": updates, **values}


def test_rates_are_differences_of_two_lines() -> None:
    before = line(
        10.0, 1_000, 50,
        replay_inserted_transitions_total=900.0, replay_sampled_transitions_total=25_600.0,
        replay_priorities_total=25_000.0, actor_blocked_seconds_total=2.0,
        learner_waited_seconds_total=1.0, head_actors=4.0,
    )  # fmt: skip
    after = line(
        14.0, 3_000, 250,
        replay_inserted_transitions_total=2_900.0, replay_sampled_transitions_total=128_000.0,
        replay_priorities_total=127_000.0, actor_blocked_seconds_total=10.0,
        learner_waited_seconds_total=1.4, head_actors=4.0,
    )  # fmt: skip
    found = flows(before, after)
    assert found.env_steps == 500.0  # 2000 / 4
    assert found.updates == 50.0  # 200 / 4
    assert found.inserts == 500.0  # 2000 / 4
    assert found.samples == 25_600.0  # 102400 / 4
    assert found.priorities == 25_500.0  # 102000 / 4
    assert found.actors_wait == pytest.approx(0.5)  # 8 s of 4 actors in 4 s
    assert found.learner_waits == pytest.approx(0.1)  # 0.4 / 4
    assert found.samples_per_insert == pytest.approx(51.2)


def test_what_not_both_lines_tell_is_unknown() -> None:
    found = flows(
        line(0.0, 0, 0, learner_waited_seconds_total=0.0),
        line(2.0, 10, 4, learner_waited_seconds_total=1.0, replay_inserted_transitions_total=9.0),
    )
    assert (found.env_steps, found.updates, found.learner_waits) == (5.0, 2.0, 0.5)
    assert found.inserts is found.samples is found.actors_wait is None
    assert found.samples_per_insert is None


def test_no_time_no_rates() -> None:
    assert flows(line(5.0, 10, 1), line(5.0, 20, 2)) == NOTHING


def test_a_process_that_was_restarted_gives_no_negative_rate_and_nobody_waits_all_the_time() -> (
    None
):
    found = flows(
        line(1.0, 100, 10, replay_priorities_total=50.0, learner_waited_seconds_total=0.0),
        line(2.0, 100, 10, replay_priorities_total=5.0, learner_waited_seconds_total=1.7),
    )
    assert found.priorities == 0.0
    assert found.learner_waits == 1.0


@pytest.mark.parametrize(
    ("actors", "learner", "says"),
    [
        (0.05, 0.02, "Nobody waits"),
        (0.62, 0.02, "Actors wait 62% of the time: the learner sets the pace"),
        (0.62, 0.3, "Actors wait 62% of the time: the learner sets the pace"),
        (0.0, 0.4, "The learner waits 40% of the time: it could take more actors"),
        (0.3, 0.4, "The learner waits 40% of the time"),
        (0.5, 0.6, "Both sides wait: the replay server or the network"),
        (None, 0.6, ""),
    ],
)
def test_one_sentence_says_who_holds_up_whom(
    actors: float | None, learner: float, says: str
) -> None:
    found = diagnosis(Flows(actors_wait=actors, learner_waits=learner))
    assert found.startswith(says)
    assert bool(found) == bool(says)
