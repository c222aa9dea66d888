"""What Ray is asked for, and what runs on a node. Ray itself is not needed."""

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.config import Config
from common.errors import ConfigError
from deploy.engines import ray as engine
from deploy.engines.fleet import Ended
from deploy.engines.ray_node import NodeCommand, _free_ports
from deploy.topology import Group, groups
from tests.waiting import wait_until

ROOT = Path(__file__).parents[4]
Node = dict[str, float]
Call = Callable[[], Any]


class FakeRay:
    """Nodes with so many cores and GPUs. What is called there runs when its result is got."""

    def __init__(self, *nodes: Node) -> None:
        self._nodes = nodes
        self.told: list[dict[str, Any]] = []
        """Options, of which Ray tells others."""

    def init(self, **options: Any) -> None:
        self.told.append(options)

    def shutdown(self) -> None:
        pass

    def remote(self, made: type) -> "FakeActor":
        return FakeActor(self, made())

    def wait(self, calls: list[Call], timeout: float) -> tuple[list[Call], list[Call]]:
        return calls, []

    def get(self, call: Call) -> Any:
        return call()

    def nodes(self) -> list[dict[str, Any]]:
        away = {"Alive": False, "Resources": {"CPU": 1_000.0, "GPU": 8.0}}
        return [away, *({"Alive": True, "Resources": node} for node in self._nodes)]


class FakeActor:
    """As Ray has it: `options` and `remote` of a class, and then `METHOD.remote`."""

    def __init__(self, ray: FakeRay, made: object) -> None:
        self._ray, self._made = ray, made

    def options(self, **options: Any) -> "FakeActor":
        self._ray.told.append(options)
        return self

    def remote(self) -> "FakeActor":
        return self

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=partial(partial, getattr(self._made, name)))


def wanted(actors: int, **changes: Any) -> tuple[Group, Group]:
    return groups(Config(actors=actors, **changes))


def check(nodes: Sequence[Node], actors: int, **changes: Any) -> list[str]:
    said: list[str] = []
    head, group = wanted(actors, **changes)
    engine._check_room(FakeRay(*nodes), head.needs, group, said.append)
    return said


@pytest.mark.parametrize(
    ("nodes", "actors", "said"),
    [
        ([{"CPU": 4.0}], 1, []),
        ([{"CPU": 4.0}, {"CPU": 8.0}], 9, []),
        # 3 of 4 + 8 cores are the head's.
        ([{"CPU": 4.0}, {"CPU": 8.0}], 12, ["the cluster has room for 9 of 12 actors"]),
    ],
)
def test_actors_that_find_no_core_are_said_to_wait(
    nodes: Sequence[Node], actors: int, said: list[str]
) -> None:
    lines = check(nodes, actors)
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))


@pytest.mark.parametrize(
    ("nodes", "changes", "fragment"),
    [
        ([{"CPU": 2.0}, {"CPU": 2.0}], {}, "no node has the 3 cores that the head wants"),
        (
            [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 4.0}],
            {"device": "cuda"},
            "wants (there are: 8 cores 0 GPUs, 2 cores 4 GPUs)",
        ),
        ([{"CPU": 3.0}], {}, "nothing is left for an actor"),
        ([], {}, "no node has the 3 cores"),
    ],
)
def test_a_cluster_that_is_too_small_is_refused(
    nodes: Sequence[Node], changes: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        check(nodes, 2, **changes)
    assert fragment in str(raised.value)


def test_without_ray_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"needs the package ray: pip install 'zapex\[ray\]'"):
        engine._ray()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_named_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match=f"no cluster at {address} .*Connection refused"):
        engine._check_listens(address)


@pytest.mark.parametrize("address", [None, "auto", "local"])
def test_a_cluster_that_ray_is_to_find_is_its_business(address: str | None) -> None:
    engine._check_listens(address)


def test_a_command_on_a_node_tells_how_it_ended_and_what_it_said_last(tmp_path: Path) -> None:
    command = NodeCommand()
    log = tmp_path / "log"
    log.write_text("what another command said\n")
    code, words = command.run(["actor", "--processes", "0"], str(ROOT), str(log), {})
    assert (code, words) == (2, "--processes 0: must be at least 1, or auto: one for each core")


def test_a_command_on_a_node_that_is_stopped_before_it_began_does_not_begin(
    tmp_path: Path,
) -> None:
    command = NodeCommand()
    command.stop()
    assert command.run(["nothing"], str(ROOT), str(tmp_path / "log"), {}) == (0, "")
    assert not (tmp_path / "log").exists()


def test_a_key_is_told_to_the_command_and_not_to_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "says.py").write_text("import os\nprint(os.environ['ZAPEX_KEY'])\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", "where-zapex-is")
    monkeypatch.setenv("ZAPEX_KEY", "secret")
    ray = FakeRay()
    head, actors = wanted(1)
    place = engine.RayPlace(ray, "actor-0", actors, lambda head: ["says"], tmp_path)
    with engine._cluster(ray, None, head.needs, actors):
        place.start("tcp://head:5550")
    assert "where-zapex-is" in repr(ray.told)
    assert "secret" not in repr(ray.told)
    # A node's own environment has none.
    monkeypatch.delenv("ZAPEX_KEY")
    assert place.ended() == Ended(0, "secret")


def test_the_ports_of_a_head_are_neighbours_and_free() -> None:
    assert 1_024 < wait_until(_free_ports, "two free ports") < 65_535


def test_the_engine_is_not_the_package_that_it_imports() -> None:
    assert engine.__name__ == "deploy.engines.ray"
    assert sys.modules.get("ray") is not engine
