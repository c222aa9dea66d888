"""`--engine slurm` on a real Slurm: submitted, trained, queued again, resumed, ended."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import runs
from tests.integration.conftest import Start
from tests.integration.runs import (
    Command,
    result_of,
    status,
    until,
    updates_beyond,
    write_preset,
)
from tests.slurm_cluster import SlurmCluster, needs_slurm, slurm_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200), needs_slurm]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job starts a dozen processes that import torch, one after the other's word."""
    monkeypatch.setattr(runs, "WAIT_S", 300.0)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        before = dict(os.environ)
        os.environ.update(cluster.environment)
        yield cluster
        os.environ.clear()
        os.environ.update(before)


def submitted(start: Start, tmp_path: Path, *words: str, **changes: Any) -> Command:
    paced = {"env": "tests.integration.environments:Paced-v0", "env_kwargs": {"delay_s": 0.01}}
    preset = write_preset(tmp_path / "tiny.toml", **{**paced, **changes})
    return start(
        "deploy", "launch", "--engine", "slurm", "--insecure", "--preset", preset,
        "--run-dir", "run", *words,
    )  # fmt: skip


def job_of(submission: Command) -> str:
    assert submission.wait() == 0, submission.output()
    found = re.search(r"as job (\d+)$", submission.output(), re.MULTILINE)
    assert found is not None
    return found[1]


def head_of_run(run_dir: Path) -> str:
    return until(
        lambda: (run_dir / "head").exists() and (run_dir / "head").read_text().strip(),
        "the head to say where it is",
    )


def test_a_job_is_queued_again_goes_on_and_ends(
    slurm: SlurmCluster, start: Start, tmp_path: Path
) -> None:
    run_dir, budget = tmp_path / "run", 6_000
    job = job_of(submitted(start, tmp_path, "--actors", "2", total_env_steps=budget))
    output = run_dir / "slurm" / f"{job}.out"
    first = status(head_of_run(run_dir), updates_beyond(50))
    assert {m["role"] for m in first["members"]} == {"replay_server", "evaluator", "actor"}

    # Slurm warns the script of the time limit, and it queues the job again by itself.
    slurm.run("scancel", "--signal=USR1", "--batch", job)
    until(lambda: slurm.queued_again(job), "the job to be queued again")
    assert result_of(run_dir)["reason"] == "stopped"
    assert "stopping: writing a checkpoint" in output.read_text()
    before = result_of(run_dir)["env_steps"]
    assert 0 < before < budget
    slurm.start_now(job)
    stopped = result_of(run_dir)["learner_updates"]
    second = status(head_of_run(run_dir), updates_beyond(stopped + 20))
    assert second["learner"]["env_steps"] >= before

    # An operator queues it again: Slurm ends everything, and starts it anew.
    slurm.run("scontrol", "requeue", job)
    until(lambda: slurm.queued_again(job), "the job to be queued once more")
    slurm.start_now(job)
    until(lambda: not slurm.states(job), "the job's end")
    result = result_of(run_dir)
    assert (result["reason"], result["env_steps"] >= budget) == ("budget", True)
    assert "Traceback" not in output.read_text()


def test_a_cancelled_job_stays_cancelled_and_can_be_taken_up_by_hand(
    slurm: SlurmCluster, start: Start, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    job = job_of(submitted(start, tmp_path, total_env_steps=10**8))
    status(head_of_run(run_dir), updates_beyond(20))
    slurm.run("scancel", job)
    until(lambda: not slurm.states(job), "the job's end")
    assert result_of(run_dir)["reason"] == "stopped"
    stopped = result_of(run_dir)["learner_updates"]
    again = slurm.run("sbatch", "--parsable", str(run_dir / "slurm" / "job.sh")).strip()
    status(head_of_run(run_dir), updates_beyond(stopped))
    slurm.run("scancel", again)
    until(lambda: not slurm.states(again), "the job's end")


def test_more_than_the_cluster_has_is_said_at_once(
    slurm: SlurmCluster, start: Start, tmp_path: Path
) -> None:
    submission = submitted(start, tmp_path, "--actors", "300")
    assert submission.wait() == 2
    (line,) = [x for x in submission.output().splitlines() if x.startswith("error: ")]
    assert "Requested node configuration is not available" in line
    assert "--actors, --head-cores" in line
    assert "submitted" not in submission.output()
