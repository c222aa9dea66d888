"""What a run consists of: an inference process where the configuration asks for one."""

from pathlib import Path

import pytest

from common.config import Config
from deploy.topology import RoleSpec, follower_roles


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
