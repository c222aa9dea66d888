"""Runs whose actors ask an inference process, as processes that may be killed at any time."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.conftest import Start
from tests.integration.runs import (
    ENDLESS,
    Status,
    checkpoints_of,
    head_of,
    log_of,
    pid_of,
    status,
    until,
    updates_beyond,
)
from tests.integration.test_processes import launched


def members(now: Status, role: str) -> list[dict[str, Any]]:
    return [member for member in now["members"] if member["role"] == role]


def counted(now: Status, role: str, name: str) -> float:
    """A counter of all members of a role together."""
    return float(sum(member["values"].get(name, 0.0) for member in members(now, role)))


def test_inference_process_actors_and_learner_may_be_killed(start: Start, tmp_path: Path) -> None:
    launch = launched(start, tmp_path, actors=2, inference="host", total_env_steps=ENDLESS)
    head, run_dir = head_of(launch), tmp_path / "run"
    before = status(
        head,
        lambda now: (
            updates_beyond(50)(now) and counted(now, "inference", "inference_requests_total") > 100
        ),
    )
    dead = pid_of(run_dir, "inference")
    psutil.Process(dead).kill()
    launch.line("inference was killed by signal 9: restarting")
    after = status(
        head,
        lambda now: (
            [m["pid"] for m in members(now, "inference")] not in ([], [dead])
            and counted(now, "inference", "inference_requests_total") > 100
            and updates_beyond(before["learner"]["updates"] + 50)(now)
            # Nothing that reached the replay is lost, or counted twice.
            and now["learner"]["env_steps"] == now["learner"]["inserted"]
        ),
    )
    # The same actors, each with its own windows and environments, in the same places.
    assert [(m["pid"], m["number"]) for m in members(after, "actor")] == [
        (m["pid"], m["number"]) for m in members(before, "actor")
    ]
    assert counted(after, "actor", "actor_env_steps_total") > counted(
        before, "actor", "actor_env_steps_total"
    )
    for actor in ("actor-0", "actor-1"):
        assert "computing Q-values here" not in log_of(run_dir, actor)

    killed = pid_of(run_dir, "actor-1")
    psutil.Process(killed).kill()
    status(
        head,
        lambda now: (
            len(members(now, "actor")) == 2
            and all(
                m["pid"] != killed and m["values"].get("actor_env_steps_total", 0.0) > 0
                for m in members(now, "actor")
            )
        ),
    )
    # Two actors are two connections, however many there were before.
    connections = psutil.Process(pid_of(run_dir, "inference")).net_connections("tcp")
    (listening,) = (c.laddr for c in connections if c.status == psutil.CONN_LISTEN)
    served = [c.laddr for c in connections if c.status == psutil.CONN_ESTABLISHED]
    assert served.count(listening) == 2
    assert counted(status(head), "inference", "inference_rejected_messages_total") == 0

    # Another learner, another head: the process takes its weights, and its actors find it again.
    psutil.Process(pid_of(run_dir, "learner")).kill()
    launch.line("learner was killed by signal 9: restarting")
    newest = checkpoints_of(run_dir)[-1]
    status(
        head,
        lambda now: (
            updates_beyond(newest + 50)(now)
            and counted(now, "inference", "inference_weights_version") > newest
            and [
                m["values"].get("actor_weights_version", 0.0) > newest
                for m in members(now, "actor")
            ]
            == [True, True]
        ),
    )
    for actor in ("actor-0", "actor-1"):
        assert "computing Q-values here" not in log_of(run_dir, actor)
    assert launch.process.poll() is None


@pytest.mark.slow
def test_actors_by_hand_find_it_on_their_machine_and_it_is_found_by_hand(
    start: Start, tmp_path: Path
) -> None:
    launch = launched(start, tmp_path, inference="host", total_env_steps=ENDLESS)
    head, run_dir = head_of(launch), tmp_path / "run"
    extra = start("actor", "--connect", head, "--envs", "3")
    where = extra.line("Q-values come from the inference process at ").split()[-1]
    until(lambda: where in log_of(run_dir, "actor-0"), "the launched actor to find it, too")
    # A second one on this machine, newer: the actors turn to it.
    second = start("actor", "--inference", "--connect", head)
    second.line("joined the run run as inference 1")
    status(
        head,
        lambda now: any(
            m["number"] == 1 and m["values"].get("inference_requests_total", 0.0) > 20
            for m in members(now, "inference")
        ),
    )
    second.process.terminate()
    assert second.wait() == 0
    before = status(head, lambda now: len(members(now, "inference")) == 1)
    status(head, updates_beyond(before["learner"]["updates"] + 50))
    assert launch.process.poll() is None
    assert extra.process.poll() is None
