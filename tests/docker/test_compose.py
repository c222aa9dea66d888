"""A run in real containers: `tests/run.sh --docker`. Takes minutes, most of them for the image.

The base image and PyTorch's index are those of deploy/.env unless ZAPEX_BASE_IMAGE and
ZAPEX_TORCH_INDEX say otherwise.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker.engine import Project, compose_commands, engine, run
from tests.monitoring import ROOT
from tests.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]

IMAGE = "zapex:test"
ROLES = ("learner", "replay_server", "actor", "evaluator")
LIMIT_S = 600.0
"""How long anything may take; a loaded machine is slow to import torch."""
MOST_ADDED_BYTES = 400e6
"""Of the image, to its base with PyTorch."""
FIRST_RUN = {"ZAPEX_OPTIONS": "--checkpoint-period 100 --seed 1"}


@pytest.fixture(scope="module", autouse=True)
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with engine(tmp_path_factory.mktemp("engine")):
        if not compose_commands():
            pytest.skip("neither docker compose nor docker-compose")
        yield


@pytest.fixture(scope="module")
def image(docker: None) -> str:
    Project(compose_commands()[0], "zapex-test", ZAPEX_IMAGE=IMAGE).compose("build", "learner")
    return IMAGE


@pytest.fixture(params=[0, 1], ids=["first", "second"])
def project(image: str, request: pytest.FixtureRequest) -> Iterator[Project]:
    """With each generation of Compose that there is."""
    commands = compose_commands()
    if request.param >= len(commands):
        pytest.skip("one generation of Compose is all there is")
    made = Project(
        commands[request.param],
        f"zapex-test-{os.getpid()}-{request.param}",
        ZAPEX_IMAGE=image,
        **FIRST_RUN,
    )
    try:
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "5", check=False)
    assert made.left() == []


def until(condition: Callable[[], Any], what: str) -> None:
    wait_until(condition, what, LIMIT_S)


def python(container: str, code: str) -> str:
    """Run something in a container, beside its role."""
    return run("docker", "exec", container, "python", "-c", code)


def signalled(module: str, name: str) -> str:
    """A program that sends a signal to the container's process of `python -m module`."""
    return f"""
import os, pathlib, signal
for process in pathlib.Path("/proc").glob("[0-9]*"):
    words = (process / "cmdline").read_bytes().split(b"\\0")
    if words[1:3] == [b"-m", b"{module}"]:
        os.kill(int(process.name), signal.{name})
"""


CHECKPOINT = re.compile(r": checkpoint /runs/cartpole/checkpoints/(\d+)\.safetensors")


def test_a_run_outlives_its_containers_and_reaches_its_target(project: Project) -> None:
    up = ("up", "--detach", "--no-build", "--scale", "actor=2")
    project.compose(*up)
    until(lambda: "training began" in project.log("learner"), "training began")

    # The learner's process dies, as when the kernel picks it for want of memory, and comes back by
    # itself with all that it knew.
    (learner,) = project.containers("learner")
    python(learner, signalled("learner", "SIGKILL"))
    until(lambda: "it goes on from its newest checkpoint" in project.log("learner"), "it resumes")
    until(lambda: "resumed from /runs/cartpole" in project.log("learner"), "it has resumed")

    # Compose stops all: a checkpoint is written, and the next `up` goes on from there.
    project.compose("stop")
    for role in ROLES:
        codes = project.inspect(role, ".State.ExitCode")
        assert codes == (["1"] if role == "learner" else ["0"] * (2 if role == "actor" else 1))
    stopped = json.loads(read(project, "/runs/cartpole/result.json"))
    assert int(CHECKPOINT.findall(project.log("learner"))[-1]) == stopped["learner_updates"]
    project.compose(*up)
    until(lambda: project.log("learner").count("resumed from") >= 2, "the run went on")

    # `docker kill` is a wish to the engine: it starts none of these again, and the others go on.
    for victim in (project.containers("actor")[0], *project.containers("replay_server")):
        run("docker", "kill", victim)
    project.compose(*up)
    until(lambda: set(project.inspect("actor", ".State.Running")) == {"true"}, "actors run")

    codes = run("docker", "wait", *project.containers("learner")).split()
    assert codes == ["0"], project.log("learner")
    for role in ("replay_server", "actor", "evaluator"):
        wait = ("docker", "wait", *project.containers(role))
        assert set(run(*wait).split()) == {"0"}, project.log(role)
    result = json.loads(read(project, "/runs/cartpole/result.json"))
    assert (result["solved"], result["reason"]) == (True, "target")
    assert result["eval_return_mean"] >= 475.0
    assert "transitions are read from /runs/cartpole/replay/storage" in project.log("learner")
    for role in ROLES:
        assert "connections are encrypted and authenticated" in project.log(role)

    # Whoever starts a run that has ended is told so, with its exit code.
    ended = project.compose("up", "--no-build", "--no-deps", "learner", check=False)
    assert "the run in /runs/cartpole has ended" in ended


def test_two_replay_servers_share_the_experience_and_come_back_with_their_shares(
    project: Project,
) -> None:
    project.environment["ZAPEX_REPLAY_SERVERS"] = "2"
    project.environment["ZAPEX_OPTIONS"] = "--target-return none"
    project.compose("up", "--detach", "--no-build", "--scale", "actor=2")
    until(lambda: "training began" in project.log("learner"), "training began")
    servers = project.containers("replay_server")
    until(lambda: all(numbers(server) for server in servers), "both have a number")
    before = {server: numbers(server) for server in servers}
    assert sorted(before.values()) == [[0], [1]]
    until(lambda: {0, 1} == stored(project), "the learner reads from both")

    # One process dies, and the engine starts its container again.
    victim = servers[0]
    python(victim, signalled("replay_server", "SIGKILL"))
    until(lambda: len(numbers(victim)) == 2, "it is in the run again")
    assert numbers(victim) == 2 * before[victim]
    until(lambda: len(restored(victim)) == 2, "it has its file")
    assert restored(victim)[1] > 0

    # Both at once, as when the machine goes down, and `up` brings them back: by then the head may
    # have forgotten them, and give their numbers the other way round. Files go with numbers.
    run("docker", "kill", *servers)
    project.compose("up", "--detach", "--no-build", "--scale", "actor=2")
    until(lambda: len(numbers(servers[1])) == 2, "the other one is in the run again")
    until(lambda: len(numbers(victim)) == 3, "and so is the first")
    assert {numbers(server)[-1] for server in servers} == {0, 1}
    until(lambda: len(restored(servers[1])) == 2 and len(restored(victim)) == 3, "both have files")
    assert all(restored(server)[-1] > 0 for server in servers)


def numbers(container: str) -> list[int]:
    """What the head has called a replay server, each time that it joined."""
    log = run("docker", "logs", container)
    return [int(n) for n in re.findall(r"joined the run cartpole as replay_server (\d+)", log)]


def restored(container: str) -> list[int]:
    """Transitions that a replay server found in its file, each time that it was started."""
    return [
        int(n) for n in re.findall(r"restored transitions: (\d+)", run("docker", "logs", container))
    ]


def stored(project: Project) -> set[int]:
    """Numbers of the files that the learner reads transitions from."""
    found = re.findall(r"are read from /runs/cartpole/replay/storage-(\d)", project.log("learner"))
    return {int(number) for number in found}


def read(project: Project, path: str) -> str:
    """A file in the volume of the runs."""
    volume = f"--volume={project.name}_runs:/runs:ro"
    return run("docker", "run", "--rm", volume, "--entrypoint", "cat", IMAGE, path)


def test_health_is_what_the_loops_say(project: Project) -> None:
    project.environment["ZAPEX_OPTIONS"] = "--target-return none"
    project.compose("up", "--detach", "--no-build")
    until(lambda: "training began" in project.log("learner"), "training began")
    for role in ROLES:
        until(lambda role=role: "in the run" in asked(project, role), f"{role} is in the run")
    # A role that is stopped in its tracks is still a process.
    (actor,) = project.containers("actor")
    python(actor, signalled("actor", "SIGSTOP"))
    assert "nobody answers" in asked(project, "actor")
    python(actor, signalled("actor", "SIGCONT"))
    # Without a head, which could not say goodbye, the others wait: they are well, and stay.
    run("docker", "kill", *project.containers("learner"))
    for role in ("replay_server", "actor", "evaluator"):
        assert "in the run" in asked(project, role)


def asked(project: Project, role: str) -> str:
    """What the health check of a role's container prints."""
    (container,) = project.containers(role)
    return run("docker", "exec", container, "python", "-m", "common.health", check=False)


def test_the_image_is_small_and_nobody_in_it_is_root(
    image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {
        "BASE_IMAGE": os.environ.get("ZAPEX_BASE_IMAGE"),
        "TORCH_INDEX": os.environ.get("ZAPEX_TORCH_INDEX"),
    }
    arguments = [f"--build-arg={k}={v}" for k, v in environment.items() if v is not None]
    build = ("docker", "build", "--quiet", "--target", "torch", *arguments)
    with_torch = run(*build, "-f", str(ROOT / "deploy" / "Dockerfile"), str(ROOT)).split()[-1]
    sizes = [
        int(run("docker", "image", "inspect", "--format={{.Size}}", name))
        for name in (image, with_torch)
    ]
    added = sizes[0] - sizes[1]
    with capsys.disabled():
        print(
            f"\nthe image adds {added / 1e6:.0f} MB to {sizes[1] / 1e6:.0f} MB of base and PyTorch"
        )
    assert added <= MOST_ADDED_BYTES
    look = ("docker", "run", "--rm", "--entrypoint", "sh", image, "-c")
    assert run(*look, "id -u").strip() == "10001"
    assert run(*look, "touch /opt/zapex/x /opt/venv/x; true").count("Permission denied") == 2
    for tool in ("gcc", "git", "/opt/venv/bin/pip"):
        assert "no" in run(*look, f"command -v {tool} || echo no")
    labels = json.loads(run("docker", "inspect", "--format={{json .Config.Labels}}", image))
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_image_holds_what_the_checkout_does(image: str) -> None:
    """Presets and style sheets are data, which a package may forget."""
    code = "import deploy.presets as p; print(*p.names())"
    listed = run("docker", "run", "--rm", "--entrypoint", "python", image, "-c", code).split()
    there = {p.stem for p in Path(ROOT / "deploy" / "presets").glob("*.toml")}
    assert "cartpole" in listed
    assert set(listed) <= there
