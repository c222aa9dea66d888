"""Checkpoints: complete or not there; a restored learner goes on as if nothing had happened."""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from common.config import Config
from common.errors import CheckpointError
from common.networks import build_network
from common.spec import EnvSpec
from learner import checkpoint
from learner.checkpoint import (
    RunState,
    checkpoints,
    load_run_state,
    load_weights_file,
    restore_learner,
    save_best,
    save_checkpoint,
)
from learner.update import QLearner, TrainBatch

SPEC = EnvSpec((4,), "<f4", 3)
N = 8
STATE = RunState(
    run_id="r1",
    epoch=2,
    updates=5,
    env_steps=1234,
    replay_inserted={0: 1200},
    wall_s=9.5,
    best_score=-3.25,
    evaluations=[{"env_steps": 1000, "return_mean": -3.25}],
)


def make_learner(seed: int = 0, **changes: Any) -> QLearner:
    config = Config(hidden_sizes=(6,), batch_size=N, target_update_period=3)
    config = config.model_copy(update=changes)
    torch.manual_seed(seed)
    return QLearner(build_network(config, SPEC), config, torch.device("cpu"))


def train(learner: QLearner, updates: int) -> None:
    """The batches depend on the update's number alone."""
    for _ in range(updates):
        rng = np.random.default_rng(learner.updates)

        def floats(*shape: int, rng: np.random.Generator = rng) -> torch.Tensor:
            return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

        learner.update(
            TrainBatch(
                frames=floats(N, 2, 4),
                shift=torch.ones(N, dtype=torch.int64),
                action=torch.from_numpy(rng.integers(0, 3, N)),
                n_step_return=floats(N),
                discount=torch.full((N,), 0.9),
                weight=torch.ones(N),
                key=np.arange(N),
                table_size=N,
                inserted={0: N},
                sampled=N,
                mean_version=0.0,
                slot=0,
            )
        )


def save(directory: Path, learner: QLearner, keep: int = 3) -> Path:
    state = replace(STATE, updates=learner.updates)
    return save_checkpoint(directory, learner, state, SPEC, keep)


def assert_same_learner(a: QLearner, b: QLearner) -> None:
    assert a.updates == b.updates
    for one, other in ((a.online, b.online), (a.target, b.target)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_restored_learner_goes_on_exactly_as_the_saved_one(
    tmp_path: Path, optimizer: str
) -> None:
    """Saved after 5 updates, between two copies of the target, then 7 more on either side."""
    learner = make_learner(optimizer=optimizer)
    train(learner, 5)
    path = save(tmp_path, learner)
    random_after_save = torch.rand(3)
    train(learner, 7)

    restored = make_learner(seed=99, optimizer=optimizer)
    restore_learner(path, restored)
    assert restored.updates == 5
    assert torch.equal(torch.rand(3), random_after_save)
    train(restored, 7)
    assert_same_learner(restored, learner)


def test_a_learner_without_an_update_can_be_restored_too(tmp_path: Path) -> None:
    learner = make_learner()
    path = save(tmp_path, learner)
    restored = make_learner(seed=99)
    restore_learner(path, restored)
    train(learner, 4)
    train(restored, 4)
    assert_same_learner(restored, learner)


def test_the_resumed_configuration_decides_the_learning_rate(tmp_path: Path) -> None:
    learner = make_learner(learning_rate=0.1)
    train(learner, 2)
    restored = make_learner(learning_rate=0.25)
    restore_learner(save(tmp_path, learner), restored)
    assert restored.optimizer.param_groups[0]["lr"] == 0.25


def test_a_restored_loss_is_scaled_as_the_saved_one(tmp_path: Path) -> None:
    learner, restored = make_learner(autocast="float16"), make_learner(autocast="float16")
    scale = {**learner.scaler.state_dict(), "scale": 128.0, "_growth_tracker": 3}
    learner.scaler.load_state_dict(scale)
    restore_learner(save(tmp_path, learner), restored)
    assert restored.scaler.state_dict() == scale


def test_counters_come_back(tmp_path: Path) -> None:
    learner = make_learner()
    train(learner, 5)
    assert load_run_state(save(tmp_path, learner)) == (STATE, SPEC)


def test_of_very_many_evaluations_so_many_are_kept_all_over_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint, "MAX_EVALUATIONS", 10)
    state = RunState("r1")
    for update in range(95):
        state.note_evaluation({"updates": update})
        assert len(state.evaluations) == min(update + 1, 10)
        assert state.evaluations[-1] == {"updates": update}
    assert state.evaluated == 95
    kept = [evaluation["updates"] for evaluation in state.evaluations]
    assert kept[0] == 0
    # Evenly they would lie 94 / 9 = 10.4 apart.
    assert kept == sorted(kept)
    assert max(np.diff(kept)) <= 2 * 10.4


def test_the_best_weights_are_the_given_ones_with_their_facts(tmp_path: Path) -> None:
    weights = {name: t.clone() for name, t in make_learner().online.state_dict().items()}
    path = save_best(tmp_path, weights, SPEC, {"return_mean": 499.5, "updates": 7})
    found, facts = load_weights_file(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert (facts["return_mean"], facts["updates"]) == (499.5, 7)
    assert EnvSpec.from_plain(facts["spec"]) == SPEC
    assert checkpoints(tmp_path) == []  # The best is no numbered checkpoint.


def test_a_numbered_checkpoint_serves_its_online_weights_too(tmp_path: Path) -> None:
    learner = make_learner()
    train(learner, 4)
    found, _ = load_weights_file(save(tmp_path, learner))
    for name, tensor in learner.online.state_dict().items():
        assert torch.equal(found[name], tensor)
    assert found.keys() == learner.online.state_dict().keys()


# ------------------------------------------------------------------------------------ which is kept


@pytest.mark.parametrize(
    ("saved", "keep", "left"),
    [
        ([1, 2, 3], 3, [1, 2, 3]),
        ([1, 2, 3, 4, 5], 2, [4, 5]),
        ([9, 10, 11], 1, [11]),
        # Numbers outgrow the eight digits of the name.
        ([99_999_998, 99_999_999, 100_000_000], 2, [99_999_999, 100_000_000]),
    ],
)
def test_the_newest_are_kept_and_listed_oldest_first(
    tmp_path: Path, saved: list[int], keep: int, left: list[int]
) -> None:
    learner = make_learner()
    weights = {name: tensor.clone() for name, tensor in learner.online.state_dict().items()}
    save_best(tmp_path, weights, SPEC, {})
    for updates in saved:
        learner.updates = updates
        save(tmp_path, learner, keep)
    assert [int(path.stem) for path in checkpoints(tmp_path)] == left
    assert (tmp_path / "best.safetensors").exists()


def test_what_is_half_written_is_never_chosen(tmp_path: Path) -> None:
    learner = make_learner()
    train(learner, 1)
    path = save(tmp_path, learner)
    (tmp_path / "00000009.partial").write_bytes(path.read_bytes()[:100])
    assert checkpoints(tmp_path) == [path]


class _PowerCut(BaseException):
    """Nothing of the writer runs any more."""


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_power_cut_while_writing_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The new file has no final name until all of it is on the disk."""
    learner = make_learner()
    train(learner, 1)
    first = save(tmp_path, learner, keep=1)
    before = first.read_bytes()
    train(learner, 1)

    def cut(*_: Any) -> None:
        raise _PowerCut

    target: Any = checkpoint.os if moment == "fsync" else Path
    monkeypatch.setattr(target, moment, cut)
    with pytest.raises(_PowerCut):
        save(tmp_path, learner, keep=1)
    monkeypatch.undo()
    assert checkpoints(tmp_path) == [first]
    assert first.read_bytes() == before
    # The next attempt is not disturbed by what was left behind.
    second = save(tmp_path, learner, keep=1)
    assert checkpoints(tmp_path) == [second]
    assert load_run_state(second)[0].updates == 2


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_others_may_read_it_as_they_may_any_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        learner = make_learner()
        paths = [
            save(tmp_path, learner),
            save_best(tmp_path, learner.online.state_dict(), SPEC, {}),
        ]
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [mode, mode]


# ------------------------------------------------------------------------------ what cannot be read


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scramble(path: Path) -> None:
    path.write_bytes(b"\xff" * 500)


def _remove(path: Path) -> None:
    path.unlink()


def _make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def metadata(value: str | None, digest: str | None = None) -> Callable[[Path], None]:
    """Other facts, as if the file had been written with them. `digest`: if not by our rule."""

    def rewrite(path: Path) -> None:
        tensors = load_file(path)
        facts = None
        if value is not None:
            facts = {"zapex": value, "sha256": digest or checkpoint._digest(value, tensors)}
        save_file(tensors, path, metadata=facts)

    return rewrite


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(truncate, id="truncated"),
        pytest.param(empty, id="empty"),
        pytest.param(scramble, id="scrambled"),
        pytest.param(_remove, id="missing"),
        pytest.param(_make_directory, id="a directory"),
        pytest.param(metadata(None), id="somebody else's file"),
        pytest.param(metadata("{"), id="no JSON"),
        pytest.param(metadata("[1]"), id="no object"),
        pytest.param(metadata("{}"), id="no format"),
        pytest.param(metadata('{"format": 99}'), id="another format"),
    ],
)
@pytest.mark.parametrize("read", [load_run_state, load_weights_file])
def test_a_damaged_file_is_refused_with_its_path(
    tmp_path: Path, damage: Callable[[Path], None], read: Callable[[Path], Any]
) -> None:
    path = save(tmp_path, make_learner())
    damage(path)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    with pytest.raises(CheckpointError):
        restore_learner(path, make_learner())


@pytest.mark.parametrize(
    "facts",
    [{}, {"state": {"run_id": "r", "no_such_counter": 1}}, {"state": {"run_id": "r"}, "spec": {}}],
)
def test_a_file_without_a_runs_counters_is_refused(tmp_path: Path, facts: dict[str, Any]) -> None:
    path = save(tmp_path, make_learner())
    metadata(json.dumps({"format": checkpoint.FORMAT, **facts}))(path)
    with pytest.raises(CheckpointError, match=path.name):
        load_run_state(path)


def test_the_best_weights_alone_are_nothing_to_resume_from(tmp_path: Path) -> None:
    path = save_best(tmp_path, make_learner().online.state_dict(), SPEC, {})
    for read in (load_run_state, lambda p: restore_learner(p, make_learner())):
        with pytest.raises(CheckpointError, match=r"best\.safetensors"):
            read(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_sizes": (7,)}, "head.weight has shape (4, 6) there and (4, 7) here"),
        ({"hidden_sizes": (6, 6)}, "torso.2.bias has shape None there and (6,) here"),
        ({"hidden_sizes": ()}, "head.weight has shape (4, 6) there and (4, 4) here"),
        ({"dueling": False}, "head.bias has shape (4,) there and (3,) here"),
    ],
)
def test_another_network_is_refused_with_the_difference_and_what_to_do(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    learner = make_learner()
    train(learner, 1)
    with pytest.raises(CheckpointError, match="another network") as caught:
        restore_learner(save(tmp_path, learner), make_learner(**changes))
    assert named in str(caught.value)
    assert "start a new run" in str(caught.value)


@pytest.mark.parametrize(("before", "now"), [("adam", "rmsprop"), ("rmsprop", "adam")])
def test_another_optimizer_is_refused(tmp_path: Path, before: str, now: str) -> None:
    learner = make_learner(optimizer=before)
    train(learner, 1)
    with pytest.raises(CheckpointError, match="another optimizer"):
        restore_learner(save(tmp_path, learner), make_learner(optimizer=now))


# --------------------------------------------------------------------------- what cannot be written


def test_a_full_disk_is_said_and_leaves_the_checkpoints_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner()
    train(learner, 1)
    first = save(tmp_path, learner, keep=1)
    train(learner, 1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        save(tmp_path, learner, keep=1)
    assert "free space" in str(caught.value)
    assert list(tmp_path.iterdir()) == [first]
    assert load_run_state(first)[0].updates == 1


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """Its parent is a file, as hopeless as one without permission."""
    (tmp_path / "run").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        save(tmp_path / "run" / "checkpoints", make_learner())
