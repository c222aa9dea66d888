"""A loss that is not finite and a disk that is full: one line, an exit code, nothing lost."""

import shutil
from pathlib import Path

import pytest
import torch

from common.errors import NonFiniteLoss
from common.run_directory import stored_config
from learner.checkpoint import BEST, checkpoints, load_run_state, load_weights_file
from tests.integration.conftest import InProcess, Start
from tests.integration.runs import ENDLESS, checkpoints_of, result_of, write_preset
from tests.integration.test_bad_input import error_of

DIRECTORY, NOT_FINITE = 7, 8
"""Exit codes of `common.errors`."""


@pytest.fixture
def healthy_run(tmp_path: Path, finished_run: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def has_finite_weights(checkpoint: Path) -> bool:
    weights, _ = load_weights_file(checkpoint)
    return all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_its_checkpoints(
    start: Start, healthy_run: Path
) -> None:
    updates = result_of(healthy_run)["learner_updates"]
    newest = checkpoints(healthy_run / "checkpoints")[-1]
    before = {path: path.read_bytes() for path in newest.parent.iterdir() if path != newest}
    weights, facts = load_weights_file(newest)
    absurd = ["--learning-rate", "1e30", "--total-env-steps", str(ENDLESS)]
    rarely = ["--checkpoint-period", "100000"]
    command = start("deploy", "launch", "--resume", "run", *absurd, *rarely)
    assert command.wait() == NOT_FINITE
    line = error_of(command)
    # The first update still sees the good weights, and leaves weights of 1e30 to the second one.
    for fragment in (
        f"learner: the loss became nan at update {updates + 2}: lower learning_rate",
        "'n_step_return': {'min': 1.0, 'max': ",  # Each step of CartPole is worth 1.
        "--resume run",
    ):
        assert fragment in line
    assert {path: path.read_bytes() for path in before} == before
    assert all(has_finite_weights(path) for path in before)
    # The start wrote this one anew: the next is another epoch.
    after, facts_after = load_weights_file(newest)
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert facts_after["state"]["updates"] == facts["state"]["updates"] == updates
    assert facts_after["state"]["epoch"] == facts["state"]["epoch"] + 1


def test_weights_that_are_not_finite_take_no_good_checkpoints_place(
    in_process: InProcess, healthy_run: Path
) -> None:
    """The loss of an update is finite and its weights overflow: there is a checkpoint to be made
    between this update and the next, whose loss is not finite."""
    changes = {
        "learning_rate": 1e300,
        "checkpoint_period": 1,
        "keep_checkpoints": 1,
        "total_env_steps": ENDLESS,
        # An actor or evaluator that hears of no other weights than those complains first.
        "publish_period": ENDLESS,
        "eval_period": ENDLESS,
    }
    config = stored_config(healthy_run).model_copy(update=changes)
    with pytest.raises(NonFiniteLoss):
        in_process(config, resume=healthy_run)
    kept = [
        *checkpoints(healthy_run / "checkpoints"),
        healthy_run / f"checkpoints/{BEST}.safetensors",
    ]
    assert len(kept) > 1
    assert [path.name for path in kept if not has_finite_weights(path)] == []


def test_a_full_disk_ends_the_run_and_leaves_its_checkpoints(
    start: Start, tmp_path: Path, full_soon: Path
) -> None:
    preset = write_preset(
        tmp_path / "tiny.toml",
        total_env_steps=ENDLESS,
        checkpoint_period=1,
        keep_checkpoints=10_000,
    )
    run_dir = full_soon / "run"
    command = start("deploy", "launch", "--preset", preset, "--run-dir", str(run_dir))
    assert command.wait() == DIRECTORY
    line = error_of(command)
    for fragment in (
        "learner: cannot write ",
        "free space",
        "the checkpoints before it are intact",
    ):
        assert fragment in line
    written = checkpoints_of(run_dir)
    assert written == list(range(len(written)))
    assert len(written) > 10
    for path in checkpoints(run_dir / "checkpoints"):
        state, _ = load_run_state(path)
        assert state.updates == int(path.stem)
        assert has_finite_weights(path)
    assert not list(run_dir.rglob("*.partial"))
