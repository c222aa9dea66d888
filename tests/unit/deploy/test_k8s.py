"""deploy/k8s: what a cluster would be told, against Kubernetes' schemas and against the program.

Overlays are rendered by the real kustomize, alone or in kubectl, and left out where there is none.
"""

import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

import actor.__main__
import learner.__main__
import replay_server.__main__
from common import health
from common.config import Config
from common.flags import parse
from common.keys import CLIENTS, SERVER_FILE
from common.metric_table import METRICS
from deploy import presets
from deploy.head import HeadOptions
from tests.monitoring import ROOT

K8S = ROOT / "deploy" / "k8s"
BASE = K8S / "base"
OVERLAYS = ("cpu", "gpu", "monitoring")
VERSIONS = ("1.29", "1.33")
"""Of Kubernetes: the oldest and the newest that the manifests are checked against."""
FOREIGN = {"PodMonitor"}
"""Kinds that are not Kubernetes' own."""

Manifest = dict[str, Any]


def base() -> list[Manifest]:
    """Every object of the base, as it is written."""
    files = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return [m for file in files for m in yaml.safe_load_all((BASE / file).read_text())]


@functools.cache
def rendered(overlay: str, directory: Path = K8S) -> list[Manifest]:
    """Every object that the overlay would make."""
    for words in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(words[0]):
            command = [*words, str(directory / "overlays" / overlay)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return list(yaml.safe_load_all(done.stdout))
    pytest.skip("kustomize or kubectl")


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return found


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Name and specification of what is run."""
    for manifest in manifests:
        if manifest["kind"] in ("StatefulSet", "Deployment"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def containers(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The one container of each, by the name of its workload."""
    found = {}
    for name, pod in pods(manifests):
        (found[name],) = pod["containers"]
    return found


def values(container: Manifest, index: int = 0) -> dict[str, str]:
    """What the container's environment holds, as far as the manifests say it.

    Args:
        index: of its pod in a StatefulSet.
    """
    run = dict(line.split("=", 1) for line in (BASE / "run.env").read_text().split())
    given = {e["name"]: e["value"] for e in container["env"] if "value" in e}
    return {"POD_NAME": f"zapex-replay-{index}", "POD_INDEX": str(index), **run, **given}


def arguments(container: Manifest, index: int = 0) -> list[str]:
    """The container's arguments, as the kubelet fills them in."""
    known = values(container, index)
    return [re.sub(r"\$\((\w+)\)", lambda m: known[m[1]], word) for word in container["args"]]


def parsed(container: Manifest, index: int = 0) -> Any:
    """What the real command line makes of a container's arguments."""
    module, *words = arguments(container, index)
    if module == "actor":
        return tyro.cli(actor.__main__.Flags, args=words)
    if module == "replay_server":
        return tyro.cli(replay_server.__main__.Flags, args=words)
    assert (module, words.pop(0)) == ("deploy", "head")
    options, rest = tyro.cli(HeadOptions, args=words, return_unknown_args=True)
    assert options.linger
    return parse(learner.__main__.Flags, rest, prog="learner", base=presets.load(options.preset))[0]


# --------------------------------------------------------------------------------------- validity


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", base(), ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_the_base_keeps_to_the_schema(manifest: Manifest, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_keep_to_the_schema(overlay: str, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for manifest in rendered(overlay):
        if manifest["kind"] not in FOREIGN:
            validate(manifest, version, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_in_the_namespace(overlay: str) -> None:
    for manifest in rendered(overlay):
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == "zapex", manifest["metadata"]["name"]


# ------------------------------------------------------------------------------------ the program


@pytest.mark.parametrize("name", containers(base()))
def test_flags_are_those_of_the_program(name: str) -> None:
    flags = parsed(containers(base())[name])
    assert flags.metrics_port == health.PORT
    assert flags.metrics_host == "0.0.0.0"
    assert not flags.insecure


def test_everybody_connects_to_where_the_head_and_the_replay_server_listen() -> None:
    found = containers(base())
    head = parsed(found["zapex-head"])
    port = int(head.bind.rpartition(":")[2])
    service = named(base(), "Service", "zapex-head")
    assert [p["port"] for p in service["spec"]["ports"]] == [port, port + 1]
    for name in ("zapex-replay", "zapex-actor", "zapex-evaluator"):
        assert parsed(found[name]).connect == f"tcp://zapex-head:{port}"
    replay = parsed(found["zapex-replay"])
    name, _, replay_port = replay.advertise.removeprefix("tcp://").partition(":")
    assert name == "zapex-replay-0.zapex-replay"
    assert replay.bind.rpartition(":")[2] == replay_port
    ports = named(base(), "Service", "zapex-replay")["spec"]["ports"]
    assert [p["port"] for p in ports] == [int(replay_port)]
    assert replay.number == 0


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_number_says_how_many_replay_servers_there_are(overlay: str, tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    run = tmp_path / "k8s" / "base" / "run.env"
    assert "ZAPEX_REPLAY_SERVERS=1\n" in run.read_text()
    run.write_text(run.read_text().replace("SERVERS=1", "SERVERS=3"))
    manifests = rendered(overlay, tmp_path / "k8s")
    assert named(manifests, "StatefulSet", "zapex-replay")["spec"]["replicas"] == 3
    assert "--replay-servers=$(ZAPEX_REPLAY_SERVERS)" in containers(manifests)["zapex-head"]["args"]


def test_each_replay_server_has_its_own_number_name_and_volume() -> None:
    container = containers(base())["zapex-replay"]
    for index in range(3):
        flags = parsed(container, index)
        assert flags.number == index
        assert flags.advertise.startswith(f"tcp://zapex-replay-{index}.zapex-replay:")
    assert str(flags.storage.parent) in {m["mountPath"] for m in container["volumeMounts"]}
    spec = named(base(), "StatefulSet", "zapex-replay")["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "replay"


@pytest.mark.parametrize("name", ["zapex-head", "zapex-replay"])
def test_a_service_names_the_ports_and_labels_of_its_pods(name: str) -> None:
    service = named(base(), "Service", name)["spec"]
    workload = named(base(), "StatefulSet", name)["spec"]
    assert workload["serviceName"] == name
    assert service["selector"] == workload["selector"]["matchLabels"]
    assert service["selector"].items() <= workload["template"]["metadata"]["labels"].items()
    open_ports = {p["name"]: p["containerPort"] for p in containers(base())[name]["ports"]}
    for port in service["ports"]:
        assert open_ports[port["targetPort"]] == port["port"]


@pytest.mark.parametrize("name", containers(base()))
def test_probes_ask_what_the_process_answers(name: str) -> None:
    container = containers(base())[name]
    open_ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert open_ports["metrics"] == health.PORT
    for probe, path in (
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ):
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
        assert path in health.PATHS


def test_keys_come_from_secrets_and_lie_where_they_are_looked_for() -> None:
    """The run's as files, for its list of clients lies beside them; a client's as a variable."""
    for name, pod in pods(base()):
        (container,) = pod["containers"]
        by_name = {e["name"]: e for e in container["env"]}
        token = by_name["ZAPEX_METRICS_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert token == {"name": "zapex-metrics", "key": "token"}
        if name in ("zapex-head", "zapex-replay"):
            (mount,) = (m for m in container["volumeMounts"] if m["name"] == "keys")
            assert mount["readOnly"]
            assert by_name["ZAPEX_KEYS"]["value"] == f"{mount['mountPath']}/{SERVER_FILE}"
            (secret,) = (v["secret"] for v in pod["volumes"] if v["name"] == "keys")
            paths = {item["path"] for item in secret["items"]}
            assert paths == {SERVER_FILE, f"{CLIENTS}/actors.pub"}
            assert secret["defaultMode"] == 0o440
        else:
            key = by_name["ZAPEX_KEY"]["valueFrom"]["secretKeyRef"]
            assert key == {"name": "zapex-actor", "key": "key"}


def test_the_preset_of_the_run_is_one() -> None:
    known = values(containers(base())["zapex-head"])
    assert isinstance(presets.load(known["ZAPEX_PRESET"]), Config)


def test_the_autoscaler_follows_a_metric_that_the_head_has() -> None:
    (metric,) = named(rendered("monitoring"), "HorizontalPodAutoscaler", "zapex-actor")["spec"][
        "metrics"
    ]
    name = metric["external"]["metric"]["name"]
    assert name.removeprefix("zapex_") in METRICS
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}


# ----------------------------------------------------------------------------------------- safety


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_keep_to_the_restricted_standard(overlay: str) -> None:
    for _, pod in pods(rendered(overlay)):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == user_of_the_image()
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        assert pod["terminationGracePeriodSeconds"] >= 30
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            # Where the image's entry point puts compiled functions.
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def user_of_the_image() -> int:
    found = re.search(r"^USER (\d+):\1$", (ROOT / "deploy" / "Dockerfile").read_text(), re.M)
    assert found is not None
    return int(found[1])


def test_a_gpu_goes_to_the_head_alone() -> None:
    found = containers(rendered("gpu"))
    assert found["zapex-head"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert found["zapex-head"]["image"] == "zapex:gpu"
    for name in ("zapex-replay", "zapex-actor", "zapex-evaluator"):
        assert found[name]["image"] == "zapex:cpu"
        assert "nvidia.com/gpu" not in found[name]["resources"]["limits"]


def test_only_what_listens_is_reached() -> None:
    """Policies open the ports that the program listens at, to the roles that connect to them."""
    head = named(base(), "NetworkPolicy", "zapex-head")["spec"]["ingress"][0]
    replay = named(base(), "NetworkPolicy", "zapex-replay")["spec"]["ingress"][0]
    everyone = named(base(), "NetworkPolicy", "zapex-everyone")["spec"]
    assert [p["port"] for p in head["ports"]] == [5550, 5551]
    assert [p["port"] for p in replay["ports"]] == [5560]
    assert "ingress" not in everyone
    assert {p["port"] for rule in everyone["egress"] for p in rule["ports"]} == {
        5550, 5551, 5560, 53,
    }  # fmt: skip


def test_the_base_has_nothing_that_no_kustomization_names() -> None:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    there = sorted(path.name for path in Path(BASE).glob("*.yaml"))
    assert sorted([*listed, "kustomization.yaml"]) == there
