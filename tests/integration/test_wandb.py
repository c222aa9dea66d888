"""Weights & Biases without a network: what is kept for a later `wandb sync`."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config import Config
from learner.recorder import Record
from learner.sinks import WeightsAndBiases
from tests.waiting import wait_until

pytest.importorskip("wandb", reason="the extra wandb is not installed")
pytestmark = [
    pytest.mark.slow,
    # Of wandb's own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def record(env_steps: int, score: float | None = None, **values: float) -> Record:
    evaluation = None
    if score is not None:
        # Of weights that were published a while ago.
        evaluation = {"return_mean": score, "return_std": 1.5, "env_steps": env_steps - 50}
    return Record(
        time_s=1e9 + env_steps,
        wall_s=env_steps / 100,
        env_steps=env_steps,
        updates=env_steps // 4,
        values=values,
        evaluation=evaluation,
    )


def records(data: bytes) -> Iterator[bytes]:
    """Those of a LevelDB log behind wandb's header of 7 bytes: blocks of 32 kB, of chunks with a
    checksum, a length, and a type (whole, first, middle, last)."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = 32_768 - at % 32_768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + length > len(data):
            return  # It is still being written.
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def read(file: Path) -> tuple[list[Any], list[dict[str, Any]]]:
    """What a file says of its run, and the rows of its history, by key."""
    from wandb.proto import wandb_internal_pb2

    runs, rows = [], []
    for data in records(file.read_bytes()):
        found = wandb_internal_pb2.Record()
        found.ParseFromString(data)
        if found.WhichOneof("record_type") == "run":
            runs.append(found.run)
        if found.WhichOneof("record_type") == "history":
            rows.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in found.history.item
                }
            )
    return runs, rows


def test_an_offline_run_is_kept_in_the_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_dir = tmp_path / "cartpole-7"
    run_dir.mkdir()
    sink = WeightsAndBiases("zapex", run_dir, Config(seed=7))
    sink.write(record(100, learner_loss=0.5))
    sink.write(record(300, score=20.0, learner_loss=0.25))
    sink.close()

    (file,) = (run_dir / "wandb").glob("offline-run-*/run-*.wandb")
    # wandb's own process writes it, and may be behind.
    wait_until(lambda: len(read(file)[1]) == 2, "both records are in the file")
    (run, *_), (first, second) = read(file)
    run_id = (run_dir / "wandb_id").read_text()
    assert (run.display_name, run.run_id) == ("cartpole-7", run_id)
    assert run_id in file.name
    assert first["losses/td_loss"] == 0.5
    assert (second["env_steps"], second["losses/td_loss"]) == (300, 0.25)
    assert (second["eval/episodic_return"], second["eval/env_steps"]) == (20.0, 250)
    # 200 steps in two seconds.
    assert second["charts/SPS"] == 100.0
