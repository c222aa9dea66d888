"""The job's script: what it reserves, and that a shell can read it."""

import shlex
import subprocess
from pathlib import Path

import pytest

from common import run_directory
from common.config import Config
from common.errors import ConfigError
from common.security import Security
from deploy.engines import slurm
from deploy.engines.options import Placing
from deploy.engines.slurm import job_script, submit

INSECURE = Security(insecure=True)


def script(directory: Path, placing: Placing | None = None, **changes: object) -> str:
    config = Config(**{"actors": 8, **changes})
    return job_script(
        placing or Placing(), config, directory / "run", "tcp://127.0.0.1:0", INSECURE
    )


def directives(text: str) -> list[list[str]]:
    """#SBATCH words, line by line."""
    return [shlex.split(x)[1:] for x in text.splitlines() if x.startswith("#SBATCH")]


def test_a_node_for_the_head_and_cores_for_the_actors(tmp_path: Path) -> None:
    lines = directives(script(tmp_path))
    # Learner, replay server, evaluator: 3 cores and 2 + 1 + 1 GB, by the core, rounded up.
    assert ["--nodes=1", "--ntasks=1", "--cpus-per-task=3", "--mem-per-cpu=1334M"] in lines
    assert ["--ntasks=8", "--no-kill", "--cpus-per-task=1", "--mem-per-cpu=1000M"] in lines
    assert [f"--output={tmp_path}/run/slurm/%j.out"] in lines
    assert ["hetjob"] in lines


def test_a_learner_on_a_gpu_gets_one(tmp_path: Path) -> None:
    assert "--gres=gpu:1" in script(tmp_path, device="cuda")
    assert "gpu:" not in script(tmp_path, device="cpu")
    assert "--gres=gpu:2" in script(tmp_path, Placing(head_gpus=2))


def test_experience_that_is_kept_in_memory_is_reserved(tmp_path: Path) -> None:
    placing = Placing(head_cores=1)
    in_file = script(tmp_path, placing)
    in_memory = script(tmp_path, placing, replay_storage="memory", replay_capacity=10_000_000)
    # CartPole: 4 float32 and a little for each of 10 million rows.
    assert "--mem-per-cpu=4000M" in in_file
    reserved = [int(word.split("=")[1][:-1]) for line in directives(in_memory) for word in line
                if word.startswith("--mem-per-cpu")]  # fmt: skip
    assert 4_200 < reserved[0] < 5_000
    assert reserved[1] == 1_000


def test_what_the_user_adds_comes_last_and_so_wins(tmp_path: Path) -> None:
    placing = Placing(
        sbatch="--time=4:00:00", sbatch_head="--partition=gpu", sbatch_actors="--partition=cpu"
    )
    text = script(tmp_path, placing)
    head, actors = text.split("#SBATCH hetjob")
    assert directives(head)[-2:] == [["--time=4:00:00"], ["--partition=gpu"]]
    assert directives(actors)[-2:] == [["--time=4:00:00"], ["--partition=cpu"]]
    # Slurm reads no directive below the first command.
    assert "#SBATCH" not in text.partition("\ncd ")[2]


@pytest.mark.parametrize("name", ["run", "our run's $HOME"])
def test_a_shell_can_read_it(tmp_path: Path, name: str) -> None:
    text = job_script(Placing(), Config(), tmp_path / name, "tcp://0.0.0.0:5550", INSECURE)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert "\nport=5550\n" in text
    assert f"--resume {shlex.quote(str(tmp_path / name))} " in text
    assert '--bind "tcp://0.0.0.0:$port" --insecure &' in text


def test_keys_are_told_to_both_parts(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    text = job_script(Placing(), Config(), tmp_path / "run", "tcp://h:0", Security(), keys)
    assert f'--bind "tcp://0.0.0.0:$port" --keys {keys} &' in text
    assert f"--processes 1 --keys {keys} &" in text
    assert "--insecure" not in text


def refusal(run_dir: Path, security: Security = INSECURE) -> str:
    run_directory.create(run_dir, Config())
    with pytest.raises(ConfigError) as raised:
        submit(Placing(engine="slurm"), Config(), run_dir, "tcp://0.0.0.0:0", security, None)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_host_without_slurm_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm.shutil, "which", lambda _: None)
    assert "there is no sbatch here: run this on a login node" in refusal(tmp_path / "run")


def test_actors_on_other_nodes_need_a_head_that_listens_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm.shutil, "which", lambda _: "/usr/bin/sbatch")
    said = refusal(tmp_path / "run", Security())
    assert said.startswith("--engine slurm: the actors are on other hosts")
    assert "give --keys DIR" in said
    assert "add --insecure on a network you trust" in said


def test_slurms_own_reason_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm.shutil, "which", lambda _: "/usr/bin/sbatch")
    answer = subprocess.CompletedProcess([], 1, "", "sbatch: error: invalid partition: gpuu\n")
    monkeypatch.setattr(slurm.subprocess, "run", lambda *_, **__: answer)
    assert "job.sh: invalid partition: gpuu: see its resources" in refusal(tmp_path / "run")
