"""`deploy launch --hosts` over five hosts with addresses of their own: one is added while the run
goes on, and one is cut off and comes back. Each has a real ssh server, and a key of the run."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from common.config import Config, write_toml
from common.keys import add_client, make_directory, open_keys
from common.security import Security
from deploy.status_client import Plain, StatusClient
from tests.integration.runs import ENDLESS, ROOT, TINY, until
from tests.integration.ssh_server import SshServer, needs_sshd
from tests.network.lab import Host, Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), needs_sshd]
PORT = 5550


class Worker:
    """A host that is reached by ssh, under the name of its address."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        directory.mkdir()
        self.key = directory / "run.key"
        self.ssh = SshServer(directory, host.address, port=22)
        self.ssh.start(["ip", "netns", "exec", host.namespace])

    @property
    def name(self) -> str:
        return self.host.address


@pytest.fixture
def workers(lab: Lab, tmp_path: Path) -> Iterator[list[Worker]]:
    workers = [Worker(lab.host(), tmp_path / f"host-{i}") for i in range(4)]
    make_directory(tmp_path / "keys")
    for worker in workers:
        add_client(tmp_path / "keys", worker.name.replace(".", "-"), worker.key)
    config = [worker.ssh.client_config([worker.name]) for worker in workers]
    (tmp_path / "ssh_config").write_text("".join(config))
    try:
        yield workers
    finally:
        for worker in workers:
            worker.ssh.stop()


def write_hosts(directory: Path, head: Host, workers: list[Worker]) -> None:
    lines = [
        f'head = {{ bind = "tcp://0.0.0.0:{PORT}", address = "{head.address}" }}',
        f'[defaults]\ndir = "{directory}"\npython = "{sys.executable}"\nactors = 1',
        f'env = {{ PYTHONPATH = "{ROOT}" }}\nssh = ["-F", "{directory}/ssh_config"]',
        *(f'[[hosts]]\nname = "{worker.name}"\nkeys = "{worker.key}"' for worker in workers),
    ]
    (directory / "hosts.toml").write_text("\n".join(lines) + "\n")


def actors(status: Plain) -> dict[int, float]:
    """Environment steps of each actor, by its process."""
    return {
        m["pid"]: m["values"].get("actor_env_steps_total", 0.0)
        for m in status["members"]
        if m["role"] == "actor"
    }


def test_a_host_is_added_and_another_is_cut_off_and_comes_back(
    lab: Lab, workers: list[Worker], tmp_path: Path
) -> None:
    paced = {"env": "tests.integration.environments:Paced-v0", "env_kwargs": {"delay_s": 0.02}}
    write_toml(Config(**{**TINY, **paced, "total_env_steps": ENDLESS}), tmp_path / "tiny.toml")
    head = lab.host()
    write_hosts(tmp_path, head, workers[:3])
    launch = head.start(
        tmp_path, "deploy", "launch", "--hosts", "hosts.toml", "--preset", "tiny.toml",
        "--run-dir", "run", "--keys", "keys",
    )  # fmt: skip
    launch.line("head at tcp://")
    with contextlib.ExitStack() as stack:
        security = Security(open_keys(tmp_path / "keys", {}))
        with head.entered():
            client = stack.enter_context(
                contextlib.closing(StatusClient(f"tcp://{head.address}:{PORT}", security=security))
            )
            client.latest()

        def so_many(count: int) -> dict[int, float]:
            def now() -> dict[int, float] | None:
                latest = client.latest()
                return actors(latest) if latest and len(actors(latest)) == count else None

            return until(now, f"{count} actors")

        so_many(3)
        write_hosts(tmp_path, head, workers)
        four = so_many(4)

        # Nothing passes, and nobody is told: the head notices that one is gone, and ssh does.
        workers[0].host.cut()
        three = so_many(3)
        (lost,) = set(four) - set(three)
        assert f"{workers[0].name} actors: " in launch.line("trying again, every 30 s")

        def others_go_on() -> bool:
            latest = client.latest()
            return latest is not None and all(
                actors(latest).get(pid, 0.0) > steps + 100 for pid, steps in three.items()
            )

        until(others_go_on, "the others to act meanwhile")
        workers[0].host.rejoin()
        # What ran there before ends, for its connection is gone, and what is started anew joins.
        until(lambda: not psutil.pid_exists(lost), "the end of the actor that was cut off")
        until(lambda: set(three) < set(so_many(4)), "the others to have stayed")

    launch.process.terminate()
    assert launch.wait() == 130
    assert launch.nothing_left()
