"""The whole topology in threads of this process."""

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from common import run_directory
from common.config import Config
from common.errors import EnvironmentFault, MalformedMessage
from deploy.launch import launch
from learner.evaluations import FINAL_EVALUATION_S
from tests.integration.conftest import InProcess
from tests.integration.runs import TINY, checkpoints_of, own_logging, result_of, write_preset


def test_a_run_ends_with_a_result_a_configuration_and_checkpoints(finished_run: Path) -> None:
    result = result_of(finished_run)
    assert result.keys() >= {
        "env", "seed", "solved", "target", "eval_return_mean", "eval_return_std", "eval_episodes",
        "wall_s", "env_steps", "learner_updates", "env_steps_per_s", "updates_per_s",
        "samples_per_insert", "versions",
    }  # fmt: skip
    assert result["versions"].keys() == {"python", "torch", "gymnasium", "zapex"}
    assert (result["env"], result["seed"], result["target"]) == ("CartPole-v1", 0, None)
    assert (result["solved"], result["reason"]) == (False, "budget")
    assert result["eval_episodes"] == TINY["eval_episodes"]
    assert 8.0 <= result["eval_return_mean"] <= 500.0  # No CartPole falls before its eighth step.
    assert run_directory.stored_config(finished_run) == Config(**TINY)
    # Three newest ones, the last of them written at the end; and the best.
    assert len(checkpoints_of(finished_run)) == 3
    assert checkpoints_of(finished_run)[-1] == result["learner_updates"]
    assert (finished_run / "checkpoints" / "best.safetensors").exists()
    assert not list(finished_run.rglob("*.partial"))


def test_acting_and_learning_keep_the_proportion_that_was_set(finished_run: Path) -> None:
    result = result_of(finished_run)
    # The band around samples_per_insert × inserts is ± max(16 · 32, 2 · 8 · (4 · 8)) = 512 samples
    # wide, and one insert of 4 · 8 transitions may step over its edge by 8 · 32 samples. Its centre
    # lies 8 · 100 samples (min_size_to_sample) below the line.
    inserted = result["env_steps"]
    samples = result["learner_updates"] * 32
    assert inserted * 8 - 800 - 512 - 256 <= samples <= inserted * 8 - 800 + 512
    assert result["samples_per_insert"] == pytest.approx(samples / inserted)
    # The budget is spent, and overshot by no more than what is under way.
    assert 2_000 <= inserted < 2_000 + (512 + 512) / 8 + 32
    # Evaluations came along the way, each of a version that was due or of the last one.
    evaluated = [e["updates"] for e in result["evaluations"]]
    assert evaluated[-1] == result["learner_updates"]
    assert all(updates % 50 == 0 for updates in evaluated[:-1])
    assert evaluated == sorted(evaluated)


def test_a_resumed_run_goes_on_where_it_was(
    in_process: InProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run_dir = in_process(Config(**{**TINY, "total_env_steps": 600}))
    before = result_of(run_dir)
    in_process(Config(**{**TINY, "total_env_steps": 1_200}), resume=run_dir)
    after = result_of(run_dir)
    assert after["env_steps"] >= 1_200 > before["env_steps"]
    assert after["learner_updates"] > before["learner_updates"]
    assert after["wall_s"] > before["wall_s"]
    assert after["evaluations"][: len(before["evaluations"])] == before["evaluations"]


def test_the_last_weights_are_not_scored_twice(in_process: InProcess) -> None:
    # Every update is evaluated, and a checkpoint after it gives the evaluator time to answer.
    every = {"eval_period": 1, "checkpoint_period": 1, "total_env_steps": 150}
    result = result_of(in_process(Config(**{**TINY, **every})))
    evaluated = [e["updates"] for e in result["evaluations"]]
    assert evaluated == sorted(set(evaluated))
    assert evaluated[-1] == result["learner_updates"]
    # It did not wait, until its patience was over, for an answer that it had already.
    assert result["wall_s"] < FINAL_EVALUATION_S


def test_overwrite_replaces_a_run_and_nothing_else(tmp_path: Path, finished_run: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    (run_dir / "notes.txt").write_text("mine")
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=400, seed=1)
    with own_logging():
        options = ["--in-process", "--preset", preset, "--run-dir", str(run_dir), "--overwrite"]
        assert launch(options) == 0
    # Neither counters nor experience of the first run's 2,000 steps went into the second one's.
    assert 400 <= result_of(run_dir)["env_steps"] < 2_000
    assert result_of(run_dir)["seed"] == run_directory.stored_config(run_dir).seed == 1
    assert checkpoints_of(run_dir)[-1] == result_of(run_dir)["learner_updates"]
    assert (run_dir / "notes.txt").read_text() == "mine"


FILM = "tests.environments:Film-v0"
KINDS_OF_RUN: Sequence[dict[str, Any]] = (
    {"vectorization": "vector_entry_point"},
    {"autoreset": "same_step", "actors": 2, "envs_per_actor": 1},
    {"prioritized": False, "double": False, "dueling": False, "n_step": 1, "loss": "squared"},
    {"optimizer": "rmsprop", "publish_dtype": "float16", "samples_per_insert": None},
    {"autocast": "bfloat16", "memory_format": "channels_last", "fused_optimizer": False},
    {"env": "FrozenLake-v1"},  # Its observation is one of 16 numbers, flattened to zeros and ones.
    {"env": FILM, "frame_stack": 4, "life_loss_ends_episode": True, "reward_clip": 1.0},
    {"env": FILM, "frame_stack": 2, "replay_link": "wire", "autoreset": "same_step"},
    {"env": "MinAtar/Breakout-v1", "network": "minatar", "frame_stack": 2, "dueling": False},
    {"network": "tests.networks:normalised"},
    {"network": "tests.networks:normalised", "inference": "host", "publish_dtype": "float16"},
)


@pytest.mark.parametrize("changes", KINDS_OF_RUN, ids=lambda changes: " ".join(changes))
def test_every_kind_of_run_spends_its_budget(
    in_process: InProcess, changes: dict[str, Any]
) -> None:
    run_dir = in_process(Config(**{**TINY, "total_env_steps": 400, "eval_period": 1000, **changes}))
    result = result_of(run_dir)
    assert result["env_steps"] >= 400
    assert result["learner_updates"] > 0
    assert result["eval_return_mean"] is not None


@pytest.mark.parametrize("inference", ["actor", "host"])
def test_weights_that_nobody_can_act_with_end_the_run(
    in_process: InProcess, inference: str
) -> None:
    config = Config(**{**TINY, "network": "tests.networks:masked", "inference": inference})
    with pytest.raises(MalformedMessage, match=r"do not fit .*: weights mask are not finite"):
        in_process(config)


@pytest.mark.parametrize("fault", ["reset raises", "step raises"])
def test_an_environment_that_raises_ends_the_run_and_all_its_threads(
    in_process: InProcess, fault: str
) -> None:
    config = Config(**{**TINY, "env": "tests.faulty:Faulty-v0", "env_kwargs": {"fault": fault}})
    threads = set(threading.enumerate())
    with pytest.raises(EnvironmentFault, match=rf"Faulty-v0 raised in {fault.split()[0]}.*the sim"):
        in_process(config)
    assert set(threading.enumerate()) <= threads
