"""The machine goes down in the middle of a run: all processes at once, and with them what the disk
had not got yet. `--resume` goes on from what was flushed."""

import random
from pathlib import Path

from tests.integration.conftest import Start
from tests.integration.runs import (
    ENDLESS,
    checkpoints_of,
    head_of,
    log_of,
    status,
    until,
    updates_beyond,
    write_preset,
)
from tests.soak.stored import StoredBlocks

PAGE = 4096
SLOTS = 5_000
BLOCK_LENGTH = 8


def put_back(path: Path, flushed: bytes, choose: random.Random) -> None:
    """Pages of the file are as when it was flushed, or as when the power failed, whichever. It is
    another file after it: no cache of this machine has it."""
    last = path.read_bytes()
    pages = (
        (last if choose.random() < 0.5 else flushed)[begin : begin + PAGE]
        for begin in range(0, len(last), PAGE)
    )
    other = path.with_name("after")
    other.write_bytes(b"".join(pages))
    other.replace(path)


def test_a_run_goes_on_from_what_was_flushed(start: Start, tmp_path: Path) -> None:
    preset = write_preset(
        tmp_path / "tiny.toml",
        total_env_steps=ENDLESS,
        block_length=BLOCK_LENGTH,
        replay_capacity=SLOTS * BLOCK_LENGTH,
    )
    run_dir = tmp_path / "run"
    storage, kept = run_dir / "replay" / "storage", run_dir / "checkpoints"
    run = start("deploy", "launch", "--preset", preset, "--run-dir", str(run_dir))
    head = head_of(run)
    before = status(head, updates_beyond(60))["learner"]
    # The moment of the last flush: counters come before what they count, as in a flush.
    flushed = storage.read_bytes()
    status(head, updates_beyond(before["updates"] + 60))
    run.kill_family()

    put_back(storage, flushed, random.Random(0))
    newest = checkpoints_of(run_dir)[-1]
    # A checkpoint that was being written, and one whose rename reached the disk and whose end did
    # not, as on a disk that lies about flushes.
    half = kept / f"{newest + 61:08d}.partial"  # None that the run writes by itself.
    half.write_bytes(b"half")
    whole = (kept / f"{newest:08d}.safetensors").read_bytes()
    (kept / f"{newest + 50:08d}.safetensors").write_bytes(whole[: len(whole) // 2])

    resumed = start("deploy", "launch", "--resume", str(run_dir))
    after = status(head_of(resumed), updates_beyond(newest + 20))["learner"]
    until(lambda: log_of(run_dir, "replay_server").count("restored transitions") == 2, "a replay")

    assert f"resumed from {kept}/{newest:08d}" in log_of(run_dir, "learner")
    assert "it is put aside" in log_of(run_dir, "learner")
    assert not half.exists()
    assert after["env_steps"] >= before["env_steps"]
    # Every block that was flushed is there, in its place.
    snapshot = tmp_path / "snapshot"
    snapshot.write_bytes(flushed)
    then, now = StoredBlocks(snapshot), StoredBlocks(storage)
    assert then.next_number > 50
    assert now.next_number > then.next_number
    assert now.missing(then.next_number) == []
    for one, other in zip(
        then.inserts(1, then.next_number), now.inserts(1, then.next_number), strict=True
    ):
        assert (one.number, one.session, one.sequence) == (
            other.number,
            other.session,
            other.sequence,
        )
        for a, b in zip(one.columns, other.columns, strict=True):
            assert a.tobytes() == b.tobytes()
    resumed.kill_family()
    torn = [
        x
        for x in log_of(run_dir, "replay_server").splitlines()
        if "torn or damaged, and are dropped" in x
    ]
    assert len(torn) == 2  # Each of the two servers looked: at an empty file, and at this one.
