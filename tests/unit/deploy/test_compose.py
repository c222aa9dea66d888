"""deploy/docker-compose.yml, deploy/Dockerfile and deploy/.env against each other and the program.

What real containers do is in tests/docker.
"""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

import actor.__main__
import learner.__main__
import replay_server.__main__
from common import health
from common.config import Config, read_toml
from common.flags import parse
from deploy import presets
from deploy.head import HeadOptions
from tests.docker.engine import compose_commands
from tests.monitoring import ROOT

DEPLOY = ROOT / "deploy"
FILE = DEPLOY / "docker-compose.yml"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
VARIABLE = re.compile(r"\$\{(\w+):?-([^}]*)\}")
"""With what it is without a value."""
ROLES = ("learner", "learner-gpu", "replay_server", "actor", "evaluator")


def dot_env() -> dict[str, str]:
    lines = (DEPLOY / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def services(**variables: str) -> dict[str, Any]:
    """All services as Compose would fill them in."""
    known = {**dot_env(), **variables}
    text = VARIABLE.sub(lambda m: known.get(m[1]) or m[2], FILE.read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)["services"]
    return loaded


def words(role: str, **variables: str) -> list[str]:
    return shlex.split(services(**variables)[role]["command"])


def parsed(role: str, **variables: str) -> Any:
    """What the real command line makes of a service's words."""
    module, *rest = words(role, **variables)
    if module == "actor":
        return tyro.cli(actor.__main__.Flags, args=rest)
    if module == "replay_server":
        return tyro.cli(replay_server.__main__.Flags, args=rest)
    assert (module, rest.pop(0)) == ("deploy", "head")
    options, flags = tyro.cli(HeadOptions, args=rest, return_unknown_args=True)
    config = presets.load(options.preset)
    return parse(learner.__main__.Flags, flags, prog="learner", base=config)[0]


@pytest.mark.parametrize("command", compose_commands(), ids=" ".join)
@pytest.mark.parametrize(
    ("profiles", "expected"),
    [
        ("cpu", {"learner", "replay_server", "actor", "evaluator"}),
        ("gpu", {"learner-gpu", "replay_server", "actor", "evaluator"}),
        ("monitoring", {"prometheus", "grafana"}),
    ],
)
def test_compose_reads_the_file(
    command: tuple[str, ...], profiles: str, expected: set[str]
) -> None:
    done = subprocess.run(
        [*command, "-f", str(FILE), "--profile", profiles, "config"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    chosen = {
        name
        for name, service in yaml.safe_load(done.stdout)["services"].items()
        if profiles in service["profiles"]
    }
    assert chosen == expected


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"ZAPEX_METRICS": "--metrics-host 0.0.0.0 --insecure"},
        {"ZAPEX_PRESET": "pong+atari_paper", "ZAPEX_ENVS": "32"},
    ],
    ids=["as it comes", "monitored", "another preset"],
)
def test_flags_are_those_of_the_program(role: str, variables: dict[str, str]) -> None:
    flags = parsed(role, **variables)
    assert flags.metrics_port == health.PORT
    assert flags.insecure == ("ZAPEX_METRICS" in variables)
    if role in ("actor", "evaluator"):
        assert flags.evaluator == (role == "evaluator")
    if role == "actor":
        assert flags.envs == int(variables.get("ZAPEX_ENVS", "0"))


def configured(role: str, **variables: str) -> Config:
    """The configuration that a head's words make."""
    rest = words(role, **variables)[2:]
    options, flags = tyro.cli(HeadOptions, args=rest, return_unknown_args=True)
    base = presets.load(options.preset)
    return parse(learner.__main__.Flags, flags, prog="learner", base=base)[1]


def test_options_of_the_learner_can_be_said() -> None:
    config = configured("learner", ZAPEX_OPTIONS="--seed 3 --total-env-steps 5_000")
    assert (config.seed, config.total_env_steps) == (3, 5_000)


def test_roles_meet_where_they_listen() -> None:
    head = parsed("learner")
    port = head.bind.rpartition(":")[2]
    assert services()["learner"]["hostname"] == "learner"
    assert services()["learner-gpu"]["networks"]["default"]["aliases"] == ["learner"]
    for role in ("replay_server", "actor", "evaluator"):
        assert parsed(role).connect == f"tcp://learner:{port}"
    replay = parsed("replay_server")
    replay_port = replay.bind.rpartition(":")[2]
    # Each under its container's name, which is another one for each.
    assert replay.advertise == f"tcp://:{replay_port}"
    assert replay.take_over
    assert "hostname" not in services()["replay_server"]
    elsewhere = parsed("replay_server", ZAPEX_REPLAY_HOST="head.example.org")
    assert elsewhere.advertise == f"tcp://head.example.org:{replay_port}"


def test_there_are_as_many_replay_servers_as_the_head_waits_for() -> None:
    for variables, count in (({}, 1), ({"ZAPEX_REPLAY_SERVERS": "3"}, 3)):
        assert services(**variables)["replay_server"]["scale"] == count
        for role in ("learner", "learner-gpu"):
            assert configured(role, **variables).replay_servers == count


@pytest.mark.parametrize("where", ["/runs", "/replay"])
def test_the_learner_sees_the_storage_under_the_same_path(where: str) -> None:
    """So that it reads transitions itself (docs/adr/0013-the-learner-reads-the-storage.md)."""
    storage = parsed("replay_server", ZAPEX_REPLAY=where, ZAPEX_RUN="other").storage
    assert storage == Path(where) / "other" / "replay" / "storage"
    volume = f"{where.removeprefix('/')}:{where}"
    for role in ("learner", "learner-gpu", "replay_server"):
        assert volume in services()[role]["volumes"]


def test_secrets_are_where_they_are_needed_and_nowhere_else() -> None:
    for role in ROLES:
        mounted = {v.split(":")[0] for v in services()[role]["volumes"]}
        keys = Path(services()[role]["environment"]["ZAPEX_KEYS"])
        if role in ("actor", "evaluator"):
            assert mounted == {"client"}
            assert keys == Path("/client/actors.key")
        else:
            assert "keys" in mounted
            assert keys.is_relative_to("/keys")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_can_do_no_more_than_it_needs(role: str) -> None:
    service = services()[role]
    assert service["init"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "mem_limit" in service
    assert "ports" not in service
    assert service["healthcheck"]["test"] == ["CMD", "python", "-m", health.__name__]


def test_whoever_ends_well_is_not_started_again_and_the_head_never() -> None:
    for role in ROLES:
        expected = "no" if role.startswith("learner") else "on-failure"
        assert services()[role]["restart"] == expected


def test_monitoring_is_reached_from_this_host_alone_and_finds_the_runs() -> None:
    base = yaml.safe_load((DEPLOY / "monitoring" / "services.yml").read_text())["services"]
    for name in ("prometheus", "grafana"):
        service = services()[name]
        assert service["profiles"] == ["monitoring"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["extends"] == {"file": "monitoring/services.yml", "service": name}
    # Where its configuration, which lies beside them, looks for ../../runs.
    assert ".:/zapex/deploy/monitoring:ro" in base["prometheus"]["volumes"]
    assert "runs:/zapex/runs:ro" in services()["prometheus"]["volumes"]
    (port,) = services()["prometheus"]["ports"]
    source = f"http://prometheus:{port.split(':')[1]}"
    assert services()["grafana"]["environment"]["ZAPEX_PROMETHEUS"] == source


def test_every_variable_is_explained_and_every_explained_one_used() -> None:
    used = dict(VARIABLE.findall(FILE.read_text()))
    # Compose's own.
    explained = {k: v for k, v in dot_env().items() if not k.startswith("COMPOSE_")}
    assert explained == used


def test_the_image_is_built_with_arguments_it_knows() -> None:
    known = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.M))
    assert services()["learner"]["build"]["args"].keys() <= known
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M):
        for source in line.split():
            assert (ROOT / source).exists()


def test_every_package_of_the_program_reaches_the_builder() -> None:
    project = read_toml(ROOT / "pyproject.toml", "pyproject.toml")
    allowed = {
        line[1:].split("/")[0]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert packages <= allowed
    assert {"metrics"} <= project["project"]["optional-dependencies"].keys()
    inside = {
        name.split(".")[1] for name in project["tool"]["setuptools"]["packages"] if "." in name
    }
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!deploy/{name}" for name in inside} <= set(lines)
