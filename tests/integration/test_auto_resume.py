"""A learner that is started again and again with the same words, as an engine does."""

import shutil
from pathlib import Path

import psutil

from learner.checkpoint import load_run_state, load_weights_file, save_best
from tests.integration.conftest import Start
from tests.integration.runs import ENDLESS, checkpoints_of, result_of, write_preset

AUTO = ("learner", "--auto-resume", "--run-dir", "run")


def test_it_begins_once_and_then_goes_on(start: Start, tmp_path: Path) -> None:
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS)
    words = (*AUTO, "--config", preset, "--bind", "tcp://127.0.0.1:0")
    first = start(*words)
    first.line("checkpoint run/checkpoints/00000000")
    psutil.Process(first.process.pid).kill()
    first.wait()
    again = start(*words)
    again.line("resumed from run/checkpoints/00000000")
    again.process.terminate()
    assert again.wait() == 0
    result = result_of(tmp_path / "run")
    assert (result["reason"], result["samples_per_insert"]) == ("stopped", None)


def test_one_that_is_stopped_before_it_trains_leaves_the_result_of_the_run_so_far(
    start: Start, tmp_path: Path, finished_run: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    words = ("--total-env-steps", str(ENDLESS), "--bind", "tcp://127.0.0.1:0")
    again = start(*AUTO, *words)
    again.line("resumed from run/checkpoints/")
    again.process.terminate()
    assert again.wait() == 0
    before, after = result_of(finished_run), result_of(run_dir)
    assert (before["reason"], after["reason"]) == ("budget", "stopped")
    assert before["samples_per_insert"] > 0.0
    kept = ("env_steps", "learner_updates", "samples_per_insert", "eval_return_mean", "evaluations")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert (after["env_steps_per_s"], after["updates_per_s"]) == (0.0, 0.0)


def test_who_is_killed_before_its_next_checkpoint_does_not_begin_the_same_epoch_again(
    start: Start, tmp_path: Path
) -> None:
    """And the weights that scored best since the last checkpoint stay the best."""
    preset = write_preset(tmp_path / "tiny.toml", total_env_steps=ENDLESS)
    words = (*AUTO, "--config", preset, "--bind", "tcp://127.0.0.1:0")
    directory = tmp_path / "run" / "checkpoints"
    checkpoint = directory / "00000000.safetensors"
    for epoch in range(3):
        learner = start(*words)
        learner.line("checkpoint run/checkpoints/00000000")
        psutil.Process(learner.process.pid).kill()
        learner.wait()
        state, spec = load_run_state(checkpoint)
        assert (state.epoch, state.best_score) == (epoch, 500.0 if epoch else None)
        if epoch == 0:
            weights, _ = load_weights_file(checkpoint)
            save_best(directory, weights, spec, {"return_mean": 500.0})


def test_a_run_that_has_ended_stays_as_it_is(
    start: Start, tmp_path: Path, finished_run: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    before = checkpoints_of(tmp_path / "run")
    # Option names are taken with underscores, too: these are looked at before they are parsed.
    ended = start("learner", "--auto_resume", "--run_dir", "run")
    assert ended.wait() == 0
    assert ended.output() == "the run in run has ended: see run/result.json\n"
    assert checkpoints_of(tmp_path / "run") == before
    refused = start(*AUTO, "--resume")
    assert refused.wait() == 2
    assert "error: --auto-resume decides by itself" in refused.output()
