"""What a run consists of: its processes, and what an engine is to place."""

from pathlib import Path

import pytest

from common.config import Config
from deploy.topology import (
    Resources,
    RoleSpec,
    actor_words,
    follower_roles,
    groups,
    head_words,
    security_words,
)


def followers(config: Config, head: str) -> dict[str, RoleSpec]:
    specs = follower_roles(config, Path("run"), head, "tcp://127.0.0.1:0")
    return {spec.name: spec for spec in specs}


def test_without_it_a_run_is_a_replay_server_its_actors_and_an_evaluator() -> None:
    names = list(followers(Config(actors=2), "tcp://127.0.0.1:7"))
    assert names == ["replay_server", "actor-0", "actor-1", "evaluator"]


@pytest.mark.parametrize("inference", ["host", "gpu"])
@pytest.mark.parametrize(
    ("head", "bind"),
    [
        # Its own host's actors alone are to reach it, wherever the head listens.
        ("tcp://10.0.0.1:5550", "tcp://127.0.0.1:0"),
        ("ipc:///tmp/zapex/head", "ipc:///tmp/zapex/head-inference"),
        ("inproc://head-1", "inproc://head-1-inference"),
    ],
)
def test_one_inference_process_serves_all_actors_of_the_host(
    inference: str, head: str, bind: str
) -> None:
    roles = followers(Config(actors=3, inference=inference), head)
    assert [spec.role for spec in roles.values()].count("inference") == 1
    assert (roles["inference"].bind, roles["inference"].head) == (bind, head)
    # In place of one that died it listens where that one did: its actors know that address.
    restarted = roles["inference"].restarted("tcp://127.0.0.1:9")
    assert (restarted.bind, restarted.head) == ("tcp://127.0.0.1:9", head)


def test_the_head_shares_a_host_and_actors_go_anywhere() -> None:
    head, actors = groups(Config(actors=12))
    assert head.roles == ("learner", "replay_server", "evaluator")
    assert (head.count, head.moves) == (1, False)
    assert head.needs == Resources(cores=3, gpus=0, memory_gb=2.0 + 1.0 + 1.0)
    assert (actors.roles, actors.count, actors.moves) == (("actor",), 12, True)
    assert actors.needs == Resources(cores=1, gpus=0, memory_gb=1.0)


def test_several_replay_servers_are_with_the_learner_all() -> None:
    head, _ = groups(Config(replay_servers=3))
    assert head.roles == ("learner", *["replay_server"] * 3, "evaluator")
    assert head.needs.cores == 5


@pytest.mark.parametrize(
    ("device", "wanted", "gpus"),
    [("cuda", None, 1), ("cuda:0", None, 1), ("auto", None, 0), ("auto", 2, 2), ("cuda", 0, 0)],
)
def test_a_gpu_is_asked_for_where_the_learner_wants_one(
    device: str, wanted: int | None, gpus: int
) -> None:
    head, actors = groups(Config(device=device), head_gpus=wanted)
    assert (head.needs.gpus, actors.needs.gpus) == (gpus, 0)


def test_experience_in_memory_is_part_of_what_the_head_wants() -> None:
    changes = {"replay_capacity": 1_000_000, "block_length": 64, "n_step": 3}
    in_file, _ = groups(Config(replay_storage="file", **changes))
    in_memory, _ = groups(Config(replay_storage="shm", **changes))
    # A row of CartPole has 16 bytes of observation; 67 rows are kept for 64 transitions.
    least_gb = 16 * 67 / 64 * 1e6 / 1e9
    extra_gb = in_memory.needs.memory_gb - in_file.needs.memory_gb
    assert least_gb < extra_gb < 4 * least_gb


def test_command_lines_begin_a_run_or_go_on_with_it() -> None:
    assert " ".join(head_words(Path("/runs/a"), "tcp://0.0.0.0:5550")) == (
        "deploy launch --resume /runs/a --actors-here 0 --bind tcp://0.0.0.0:5550"
    )
    assert actor_words("tcp://head:5550", "auto") == (
        ["actor", "--connect", "tcp://head:5550", "--processes", "auto"]
    )


def test_keys_are_told_by_where_they_lie() -> None:
    assert security_words(None) == []
    assert security_words(None, insecure=True) == ["--insecure"]
    # A process elsewhere has another working directory.
    assert security_words(Path("/keys/../keys/run")) == ["--keys", "/keys/run"]
