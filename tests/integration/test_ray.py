"""`--engine ray` on a real Ray cluster of several nodes, one of which is lost during the run."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import runs
from tests.integration.conftest import Start
from tests.integration.runs import (
    ENDLESS,
    ROOT,
    Command,
    head_of,
    result_of,
    status,
    updates_beyond,
    write_preset,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1_200),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no Ray: zapex[ray]"),
]

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=2)]
print("at", cluster.address, flush=True)
for line in sys.stdin:
    if line == "add\\n":
        nodes.append(cluster.add_node(num_cpus=2))
    else:
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
    print("done", flush=True)
cluster.shutdown()
"""
"""Four cores where the head fits, two elsewhere. In a process of its own, for Ray's threads and
warnings are nothing for that of the tests."""


class RayCluster:
    """Nodes that come and go."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_DISABLE_IMPORT_WARNING": "1"},
            text=True,
        )
        self.address = self._answer().removeprefix("at ")
        assert self.address, "the cluster did not start"

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def end(self) -> None:
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place starts a worker of Ray's, a process, and in it the actor's own two."""
    monkeypatch.setattr(runs, "WAIT_S", 300.0)


@pytest.fixture
def cluster(patience: None) -> Iterator[RayCluster]:
    cluster = RayCluster()
    yield cluster
    cluster.end()


def launched(start: Start, tmp_path: Path, *words: str, **changes: Any) -> Command:
    paced = {"env": "tests.integration.environments:Paced-v0", "env_kwargs": {"delay_s": 0.01}}
    preset = write_preset(tmp_path / "tiny.toml", **{**paced, **changes})
    options = ("--preset", preset, "--run-dir", str(tmp_path / "run"), *words)
    return start("deploy", "launch", "--engine", "ray", *options)


def pids(now: dict[str, Any], role: str = "actor") -> set[int]:
    """Of the members of that role."""
    return {m["pid"] for m in now["members"] if m["role"] == role}


def test_a_node_is_lost_and_another_takes_its_actors(
    start: Start, tmp_path: Path, cluster: RayCluster
) -> None:
    launch = launched(
        start, tmp_path, "--address", cluster.address, "--insecure", "--actors", "3",
        total_env_steps=ENDLESS,
    )  # fmt: skip
    head = head_of(launch)
    # The head's group has three of the first node's four cores.
    first = pids(status(head, lambda now: len(pids(now)) == 3 and updates_beyond(20)(now)))
    cluster.tell("remove")
    # Two of them were on that node; the third has the last core of the first.
    left = pids(status(head, lambda now: len(pids(now)) == 1))
    assert left < first
    cluster.tell("add")
    again = status(head, lambda now: len(pids(now)) == 3)
    status(head, updates_beyond(again["learner"]["updates"] + 20))
    launch.process.terminate()
    assert launch.wait() == 130
    assert launch.nothing_left()
    assert result_of(tmp_path / "run")["reason"] == "stopped"


def test_a_cluster_of_this_host_alone_is_made_for_the_run(start: Start, tmp_path: Path) -> None:
    launch = launched(start, tmp_path, total_env_steps=1_000)
    assert launch.wait() == 0, launch.output()
    assert launch.line("budget spent")
    assert launch.nothing_left()
    assert result_of(tmp_path / "run")["env_steps"] >= 1_000


def test_what_a_cluster_cannot_hold_is_said_in_one_line(
    start: Start, tmp_path: Path, cluster: RayCluster
) -> None:
    cases = [
        (["--head-cores", "5"], "no node has the 5 cores that the head wants (there are: "),
        (["--head-gpus", "1"], "no node has the 3 cores and 1 GPUs that the head wants"),
        ([], "add --insecure on a network you trust"),
    ]
    for words, fragment in cases:
        # One after the other, for they have one run directory.
        command = launched(start, tmp_path, "--overwrite", "--address", cluster.address, *words)
        assert command.wait() == 2
        (line,) = [x for x in command.output().splitlines() if x.startswith("error: ")]
        assert fragment in line
        assert "Traceback" not in command.output()


def test_a_head_that_cannot_live_ends_the_run_in_its_words(start: Start, tmp_path: Path) -> None:
    launch = launched(start, tmp_path, network="math:sqrt")
    assert launch.wait() == 2
    (line,) = [x for x in launch.output().splitlines() if x.startswith("error: ")]
    assert "learner: network = 'math:sqrt' cannot be built" in line
