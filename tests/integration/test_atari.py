"""Pong by its preset, for a moment: batches are large enough for all that tiny runs do without."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zmq

from common import part_threads, run_directory
from common.config import Config
from deploy import presets
from deploy.topology import RoleSpec, follower_roles, run_role
from learner.feed import INLINE_BYTES
from tests.integration.conftest import Start
from tests.integration.runs import (
    ENDLESS,
    WAIT_S,
    log_of,
    own_logging,
    result_of,
    status,
    updates_beyond,
)
from tests.integration.test_roles import Context, Role
from tests.tcp_bytes import carried_by_port, port_of

pytest.importorskip("ale_py", reason="the extra atari is not installed")
pytest.importorskip("cv2", reason="the extra atari is not installed")

FRAME_BYTES = 84 * 84
SHORT: dict[str, Any] = {
    "device": "cpu",
    "envs_per_actor": 4,
    "block_length": 16,
    "min_size_to_sample": 256,
    "replay_capacity": 2_000,
    "total_env_steps": 400,
    "eval_episodes": 1,
    "learner_threads": 1,
}
"""In place of those numbers of the preset that make a run long."""
SHORT_EPISODES = '{"max_num_frames_per_episode": 100}'


def batch_bytes(config: Config) -> int:
    """Frames of one batch."""
    frames = config.frame_stack + min(config.n_step, config.frame_stack)
    return config.batch_size * frames * FRAME_BYTES


def test_pong_trains_with_one_command(start: Start, tmp_path: Path) -> None:
    # The last insert, of 16 rows of 4 environments, is taken when no more than 256 samples are due:
    # (536 − 256) · 8 − 256 were drawn, 8 batches, and at most 4 of them wait to be trained on.
    values = {**SHORT, "total_env_steps": 600, "samples_per_insert_tolerance": 256}
    flags = [w for k, v in values.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    run_dir = tmp_path / "run"
    launch = start(
        "deploy", "launch", "--preset", "pong", "--run-dir", str(run_dir),
        *flags, "--env-kwargs", SHORT_EPISODES, "--target-return", "none",
    )  # fmt: skip
    assert launch.wait() == 0, launch.output()
    assert launch.nothing_left()
    result = result_of(run_dir)
    assert (result["env"], result["reason"]) == ("ALE/Pong-v5", "budget")
    assert result["env_steps"] >= 600
    assert result["learner_updates"] > 2
    assert result["eval_return_mean"] is not None
    config = run_directory.stored_config(run_dir)
    assert (config.network, config.frame_stack) == ("nature", 4)
    storage = run_dir / "replay" / "storage"
    assert log_of(run_dir, "learner").count(f"transitions are read from {storage}") == 1


@dataclass
class Running:
    """A run whose roles are threads of this process and talk by TCP, as processes do."""

    head: str
    replay: str

    def carried_bytes(self) -> int:
        """Between the replay server and the others, in both directions."""
        # Both ends are here, and what one has sent the other receives.
        return carried_by_port()[port_of(self.replay)].sent


@contextlib.contextmanager
def running(config: Config, run_dir: Path) -> Iterator[Running]:
    run_directory.create(run_dir, config)
    anywhere = "tcp://127.0.0.1:0"
    with own_logging(), contextlib.ExitStack() as ends:
        context: Context = ends.enter_context(zmq.Context())

        def start(spec: RoleSpec) -> str:
            """Its address, once it has one and is ready."""
            ready: queue.SimpleQueue[str] = queue.SimpleQueue()
            role = Role(lambda stop: run_role(spec, context, stop, ready.put))
            ends.callback(role.end)
            return ready.get(timeout=WAIT_S)

        head = start(RoleSpec("learner", "learner", config, run_dir, anywhere))
        replay, actor, _ = follower_roles(config, run_dir, head, anywhere)
        served_at = start(replay)
        start(actor)
        yield Running(head, served_at)


@pytest.mark.parametrize("replay_link", ["shared_memory", "wire"])
def test_what_differs_of_frames_is_sent_and_they_are_fetched_ahead_by_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replay_link: str
) -> None:
    # As on a machine with two cores: on one there is nobody to share a batch's frames with.
    monkeypatch.setattr(part_threads.os, "sched_getaffinity", lambda _: {0, 1})
    # Of a block the first frame is sent whole, as within a host it is not compressed.
    changes = {**SHORT, "block_length": 64, "total_env_steps": ENDLESS, "replay_link": replay_link}
    config = presets.load("pong").model_copy(update=changes)
    assert batch_bytes(config) > max(INLINE_BYTES, 2 * part_threads.PART_BYTES)
    with running(config, tmp_path / "run") as run:
        learner = status(run.head, updates_beyond(2))["learner"]
        carried_bytes = run.carried_bytes()
        threads = {thread.name.removesuffix("_0") for thread in threading.enumerate()}
    frame_bytes = learner["inserted"] * FRAME_BYTES
    by_wire = replay_link == "wire"
    if by_wire:
        frame_bytes += learner["updates"] * batch_bytes(config)
    assert 0 < carried_bytes < frame_bytes / 4
    assert "prefetch" in threads
    # What gathers from the mapped storage, and what compresses batches.
    assert ("gather" in threads, "compression" in threads) == (not by_wire, by_wire)
