"""`launch --in-process --deterministic`: the same run twice, to the last bit."""

import hashlib
import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from common import run_directory
from common.block_columns import INSERTED, NEXT_NUMBER, SAMPLED, BlockColumns
from common.config import Config
from common.environments import probe_spec
from common.errors import ConfigError, EnvironmentFault
from common.manifest import Manifest
from common.process import INTERRUPTED
from deploy import presets
from deploy.launch import launch
from learner.checkpoint import checkpoints
from tests.faulty import FAULTY
from tests.integration.conftest import InProcess, Start
from tests.integration.runs import ENDLESS, TINY, result_of, until, write_preset

UPDATES = 1_000
THOUSAND: dict[str, Any] = {"total_env_steps": 4 * UPDATES + 200, "eval_period": 400}
"""An update for 4 environment steps, beyond the first 100 and the limiter's band."""
FILM = "tests.environments:Film-v0"
RUNS: dict[str, dict[str, Any]] = {
    "cartpole": {"vectorization": "vector_entry_point"},
    "frames": {
        "env": "MinAtar/Breakout-v1",
        "network": "minatar",
        "frame_stack": 2,
        "batch_size": 8,
        "samples_per_insert": 2.0,
        "actors": 2,
        "envs_per_actor": 2,
    },
}
KINDS: Sequence[dict[str, Any]] = (
    {"prioritized": False, "actors": 3, "envs_per_actor": 1, "autoreset": "same_step"},
    {"samples_per_insert": None, "actors": 2, "optimizer": "rmsprop", "dueling": False},
    {"vectorization": "async", "envs_per_actor": 2, "n_step": 5, "insert_window": 1},
    {"env": FILM, "frame_stack": 4, "life_loss_ends_episode": True, "replay_storage": "memory"},
)

Facts = dict[str, Any]


def outcome(run_dir: Path) -> Facts:
    """All that must not differ: of the newest checkpoint every tensor (both networks, the
    optimiser's moments, PyTorch's generator) and every counter, and the replay's file."""
    (*_, newest) = checkpoints(run_dir / "checkpoints")
    with safe_open(newest, framework="pt") as file:
        names = list(file.keys())
        facts: Facts = {name: digest(file.get_tensor(name)) for name in names}
        state = json.loads(file.metadata()["zapex"])["state"]
    # How long it took, and what it was called, is another matter.
    del state["wall_s"], state["run_id"]
    for evaluation in state["evaluations"]:
        del evaluation["wall_s"]
    facts |= state
    storage = run_dir / "replay" / "storage"
    if storage.exists():
        facts["replay"] = hashlib.sha256(replay_of(run_dir, storage)).hexdigest()
    return facts


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def replay_of(run_dir: Path, storage: Path) -> bytes:
    """The file, without the counters that tell one file and one server from every other."""
    config = run_directory.stored_config(run_dir)
    manifest = Manifest("", config, probe_spec(config))
    buffer = bytearray(storage.read_bytes())
    columns = BlockColumns(manifest.spec, manifest.layout, config.replay_slots, buffer)
    kept = columns.counters[[NEXT_NUMBER, INSERTED, SAMPLED]]
    columns.counters[:] = 0
    columns.counters[[NEXT_NUMBER, INSERTED, SAMPLED]] = kept
    return bytes(buffer)


def test_a_thousand_updates_are_bit_identical_in_fresh_processes(
    start: Start, tmp_path: Path, deterministic: InProcess
) -> None:
    options = ["--in-process", "--deterministic", "--seed", "7"]
    commands = []
    for name, changes in RUNS.items():
        preset = write_preset(tmp_path / f"{name}.toml", **THOUSAND, **changes)
        words = [*options, "--preset", preset, "--run-dir", name]
        commands.append(start("deploy", "launch", *words))
    # Meanwhile in this process, where other tests have drawn random numbers before.
    config = {name: Config(**{**TINY, **THOUSAND, **r, "seed": 7}) for name, r in RUNS.items()}
    here = {name: outcome(deterministic(config[name])) for name in RUNS}
    assert [command.wait() for command in commands] == [0, 0]
    for name in RUNS:
        there = outcome(tmp_path / name)
        assert {k for k in there if there[k] != here[name][k]} == set()
        assert there["updates"] >= UPDATES
        assert len(there["evaluations"]) >= 2
        assert {"replay", "online.", "target.", "optimizer.", "rng."} <= {
            part for fact in there for part in (fact, f"{fact.partition('.')[0]}.")
        }
        assert "greedy return" in commands[0].output()
        # What an ordinary run leaves, this one does too.
        assert (tmp_path / name / "metrics.jsonl").stat().st_size
        assert (tmp_path / name / "checkpoints" / "best.safetensors").exists()
        assert json.loads((tmp_path / name / "status.json").read_text())["learner"]["updates"]


def test_another_seed_gives_other_weights_and_other_experience(
    deterministic: InProcess,
) -> None:
    one, other = (
        outcome(deterministic(Config(**{**TINY, "total_env_steps": 300, "seed": seed})))
        for seed in (1, 2)
    )
    assert one["updates"] == other["updates"] > 0
    weights = [name for name in one if name.startswith("online.")]
    assert all(one[name] != other[name] for name in [*weights, "replay"])


@pytest.mark.parametrize("changes", KINDS, ids=lambda changes: " ".join(changes))
def test_every_kind_of_run_repeats(deterministic: InProcess, changes: dict[str, Any]) -> None:
    config = Config(**{**TINY, "total_env_steps": 600, "eval_period": 100, **changes})
    first, second = outcome(deterministic(config)), outcome(deterministic(config))
    assert first == second
    assert first["updates"] > 50
    assert first["env_steps"] >= 600


def test_without_a_limit_every_actor_steps_once_for_each_update(
    deterministic: InProcess,
) -> None:
    changes: dict[str, Any] = {"samples_per_insert": None, "actors": 2, "envs_per_actor": 3}
    # With SAME_STEP there is no step that only resets: each is one of 2 · 3 environment steps.
    changes |= {"autoreset": "same_step", "total_env_steps": 1_300}
    result = result_of(deterministic(Config(**{**TINY, **changes})))
    # The first update comes with 100 transitions, each further one with 6 more. They arrive in
    # blocks of 8: 6 · 8 transitions at once, and 8 updates until the next.
    assert result["learner_updates"] == pytest.approx((1_300 - 100) / 6, abs=8)


def test_a_run_that_is_resumed_twice_goes_on_in_the_same_way(
    deterministic: InProcess, tmp_path: Path
) -> None:
    config = Config(**{**TINY, "total_env_steps": 300})
    run_dir = deterministic(config)
    copies = [Path(shutil.copytree(run_dir, tmp_path / name)) for name in ("once", "again")]
    longer = config.model_copy(update={"total_env_steps": 600})
    once, again = (outcome(deterministic(longer, resume=copy)) for copy in copies)
    assert once == again
    # Nothing that was inserted is taken for a repetition of what the first part had inserted.
    assert once["epoch"] == 1
    assert once["env_steps"] >= 600
    assert once["updates"] > outcome(run_dir)["updates"]


def test_a_part_that_is_begun_twice_inserts_nothing_in_vain(
    deterministic: InProcess, tmp_path: Path
) -> None:
    """One that could not write a checkpoint, for want of room, and was killed: the next one has
    the same epoch, and a replay that holds what the other had inserted in it."""
    config = Config(**{**TINY, "total_env_steps": 300})
    run_dir = deterministic(config)
    saved = run_dir / "checkpoints"
    kept = shutil.copytree(saved, tmp_path / "kept")
    deterministic(config.model_copy(update={"total_env_steps": 900}), resume=run_dir)
    shutil.rmtree(saved)
    shutil.move(kept, saved)
    deterministic(config.model_copy(update={"total_env_steps": 1_500}), resume=run_dir)
    assert outcome(run_dir)["epoch"] == 1
    *_, last = (run_dir / "metrics.jsonl").read_text().splitlines()
    assert json.loads(last)["replay_duplicates_total"] == 0


def test_a_killed_runs_clock_goes_on_and_what_it_had_done_is_not_taken_for_the_next_parts(
    deterministic: InProcess,
) -> None:
    config = Config(**{**TINY, "total_env_steps": 900, "keep_checkpoints": 100})
    run_dir = deterministic(config)
    metrics = run_dir / run_directory.METRICS_FILE
    before, told_s = result_of(run_dir), run_directory.last_line(metrics)["wall_s"]
    # As if it had been killed in the end, and all its checkpoints but the first had failed.
    _, *later = checkpoints(run_dir / "checkpoints")
    for path in later:
        path.unlink()
    deterministic(config.model_copy(update={"total_env_steps": 1_300}), resume=run_dir)
    after = result_of(run_dir)
    assert 0 < after["learner_updates"] < before["learner_updates"]
    part_s = after["wall_s"] - told_s
    new = after["env_steps"] - before["env_steps"]
    assert new >= 300
    # Some came after the last batch before, whose count was the last that was heard.
    assert 0.5 * new <= after["env_steps_per_s"] * part_s <= 1.5 * new
    walls = [json.loads(line)["wall_s"] for line in metrics.read_text().splitlines()]
    assert walls == sorted(walls)


def test_ctrl_c_ends_it_with_a_checkpoint(start: Start, tmp_path: Path) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS)
    options = ["--preset", preset, "--run-dir", "run"]
    command = start("deploy", "launch", "--in-process", "--deterministic", *options)
    saved = tmp_path / "run" / "checkpoints"
    until(lambda: len(checkpoints(saved)) > 1, "training is under way")
    command.process.send_signal(signal.SIGINT)
    assert command.wait() == INTERRUPTED
    assert "--resume run" in command.line("stopped")
    assert "error" not in command.output()
    result = result_of(tmp_path / "run")
    assert result["reason"] == "stopped"
    assert int(checkpoints(saved)[-1].stem) == result["learner_updates"]


def test_an_environment_that_raises_ends_it_in_one_line(deterministic: InProcess) -> None:
    for fault in ("reset", "step"):
        faulty = {"env": FAULTY, "env_kwargs": {"fault": f"{fault} raises"}}
        with pytest.raises(EnvironmentFault, match=f"Faulty-v0 raised in {fault}"):
            deterministic(Config(**{**TINY, **faulty}))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--deterministic"], "--deterministic runs all roles in one process: add --in-process"),
        (["--in-process", "--deterministic", "--vectorization", "envpool"], "cannot repeat"),
        (["--in-process", "--deterministic", "--inference", "host"], "no inference process"),
        (["--in-process", "--deterministic", "--video-period", "2"], "films nothing"),
    ],
)
def test_what_cannot_be_repeated_is_refused_before_there_is_a_run(
    tmp_path: Path, options: list[str], line: str
) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(ConfigError, match=line):
        launch([*options, "--run-dir", str(run_dir)])
    assert not run_dir.exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("changes", [{}, {"cuda_graph": True}], ids=["eager", "cuda_graph"])
def test_a_gpu_repeats_too(start: Start, tmp_path: Path, changes: dict[str, Any]) -> None:
    # In processes of their own: cuBLAS is told before it starts.
    on_gpu = {**THOUSAND, **RUNS["frames"], "batch_size": 32, "samples_per_insert": 8.0, **changes}
    preset = write_preset(tmp_path / "gpu.toml", device="cuda", **on_gpu)
    options = ["--in-process", "--deterministic", "--preset", preset]
    commands = [start("deploy", "launch", *options, "--run-dir", name) for name in ("one", "two")]
    assert [command.wait() for command in commands] == [0, 0]
    one, two = (outcome(tmp_path / name) for name in ("one", "two"))
    assert {name for name in one if one[name] != two[name]} == set()


@pytest.mark.slow
def test_cartpole_is_solved_so_too(deterministic: InProcess) -> None:
    config = presets.load("cartpole", None)
    result = result_of(deterministic(config))
    assert result["solved"]
    assert result["eval_return_mean"] >= 475.0
