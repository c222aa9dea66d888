"""A run that is watched from outside, and what it writes about itself while it goes on."""

import json
import signal
from pathlib import Path

import pytest

from common.trace import ITERATIONS
from tests.integration.conftest import Start
from tests.integration.runs import ENDLESS, head_of, result_of, status, updates_beyond, write_preset


def test_a_run_is_watched_from_another_process_until_it_ends(start: Start, tmp_path: Path) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS)
    launch = start("deploy", "launch", "--preset", preset, "--run-dir", str(tmp_path / "run"))
    head = head_of(launch)
    status(head, updates_beyond(10))
    # Actors tell their version with the first heartbeats, a second apart.
    status(head, lambda now: any(now["histograms"].get("head_actor_lag_updates", [])))

    once = start("deploy", "status", head, "--json")
    assert once.wait() == 0
    found = json.loads(once.output())
    assert found["run_id"] == "run"
    assert found["learner"]["updates"] > 10
    roles = {member["role"] for member in found["members"]}
    assert roles == {"replay_server", "actor", "evaluator"}

    view = start("deploy", "status", head)
    view.line("updates ")
    launch.signal_group(signal.SIGINT)
    assert launch.wait() == 130
    assert view.wait() == 0
    assert view.output().splitlines()[0] == f"CartPole-v1, run run: {head}"
    assert view.output().splitlines()[-1] == "the run has ended"


@pytest.mark.parametrize("servers", [["replay_server"], ["replay_server-0", "replay_server-1"]])
def test_a_profiled_run_leaves_a_picture_of_all_its_loops(
    start: Start, tmp_path: Path, servers: list[str]
) -> None:
    # Each replay server needs actors of its own: nobody samples from an empty one.
    many = {"replay_servers": len(servers), "actors": len(servers)}
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS, **many)
    run_dir = tmp_path / "run"
    launch = start(
        "deploy", "launch", "--preset", preset, "--run-dir", str(run_dir), "--profile",
        "--actors-here", "3",  # More than there are: no recording is waited for that cannot come.
    )  # fmt: skip
    assert "trace.json" in launch.line("profile: ")
    for server in servers:
        launch.line(f"  {server} ")
    launch.signal_group(signal.SIGINT)
    assert launch.wait() == 130
    events = json.loads((run_dir / "trace.json").read_text())["traceEvents"]
    threads = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    actors = [f"actor-{number}" for number in range(len(servers))]
    assert sorted(threads.values()) == [*actors, "learner", *servers]
    phases = {name: [] for name in threads.values()}
    for event in events:
        if event["ph"] == "X":
            assert event["dur"] >= 0.0
            phases[threads[event["tid"]]].append(event["name"])
    assert phases["learner"].count("forward, backward, optimiser") == ITERATIONS
    assert {"receiving", "gathering", "priorities", "publishing"} <= set(phases["learner"])
    for server in servers:
        assert {"inserting", "priorities, sampling", "sending"} <= set(phases[server])
    for actor in actors:
        assert {"inference", "environment", "blocks"} <= set(phases[actor])


def test_a_profile_is_no_part_of_a_run_in_threads(start: Start, tmp_path: Path) -> None:
    launch = start(
        "deploy", "launch", "--run-dir", str(tmp_path / "run"), "--in-process", "--profile"
    )
    assert launch.wait() == 2
    assert "error: --profile looks at processes: drop --in-process" in launch.output()


def test_metrics_are_written_each_second_and_at_the_end(finished_run: Path) -> None:
    text = (finished_run / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    result = result_of(finished_run)
    assert lines[-1]["env_steps"] == result["env_steps"]
    assert lines[-1]["updates"] == lines[-1]["learner_updates_total"] == result["learner_updates"]
    evaluations = [line["evaluation"] for line in lines if "evaluation" in line]
    assert evaluations == result["evaluations"]
    # None can be behind by more than all updates; quantiles lie within a range of the histogram.
    # A run of a second may be over before an actor has told its version.
    name = "head_actor_lag_updates_p90"
    lags = [line[name] for line in lines if name in line]
    assert all(0.0 <= lag <= 2 * max(result["learner_updates"], 1) for lag in lags)
    episodes = sum(len(line.get("episode_returns", [])) for line in lines)
    assert episodes == max(line.get("actor_episodes_total", 0) for line in lines)
