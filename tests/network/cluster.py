"""A run over the hosts of a lab: learner, replay server and two actors, each on its own.

The far actor's line is the one that misbehaves; what the near one does meanwhile says whether it
matters to others. Everybody knows the head by name.
"""

import functools
from pathlib import Path
from typing import Any, Self

import psutil

from common.config import Config, write_toml
from deploy.status_client import Plain, StatusClient
from tests.integration.runs import ENDLESS, Command, until
from tests.network.lab import Lab
from tests.network.stored import Stored

HEAD = "tcp://head:5550"
REPLAY_PORT = 5560
SECURITY = ("--insecure",)
"""What every role is told about keys."""
SMALL, FRAME = (16,), (84, 84)
"""Shapes of an observation."""
CONFIG: dict[str, Any] = {
    "env": "tests.network.environments:Numbered-v0",
    "total_env_steps": ENDLESS,
    "actors": 2,
    "envs_per_actor": 4,
    "block_length": 8,
    "hidden_sizes": (16,),
    "batch_size": 32,
    "min_size_to_sample": 100,
    "samples_per_insert": 2.0,
    "replay_capacity": 100_000,
    "replay_link": "wire",
    "publish_period": 5,
    "checkpoint_period": 50,
    "eval_period": ENDLESS,
}
"""Two actors of 4 environments, whose steps take 5 ms each: 200 steps/s of each actor when nothing
holds it up, in inserts of 32, and 25 updates/s of 32 transitions. The replay keeps everything."""


class Cluster:
    """A context manager; all that it started ends with it.

    Args:
        directory: where the processes run and write.
        impatient: whether they give up connections after 2 s instead of 15.
        shape: of an observation.
        changes: of CONFIG.
    """

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        *,
        impatient: bool = False,
        shape: tuple[int, ...] = SMALL,
        **changes: Any,
    ) -> None:
        self.directory = directory
        self._impatient = impatient
        kwargs = {"shape": shape, "delay_s": 0.005, **changes.pop("env_kwargs", {})}
        self.config = Config(**{**CONFIG, "env_kwargs": kwargs, **changes})
        self._shape = shape
        write_toml(self.config, directory / "run.toml")
        self.head, self.replay, self.near = lab.host(), lab.host(), lab.host()
        self.far = lab.host(wired=True)
        self.hosts = {"learner": self.head, "replay_server": self.replay}
        self.hosts |= {"near": self.near, "far": self.far}
        self.commands: dict[str, Command] = {}
        self._client: StatusClient | None = None
        self._newest: Plain = {}

    def __enter__(self) -> Self:
        self.name_head(self.head.address)
        self.start_learner("--config", "run.toml")
        self.commands["learner"].line("head at tcp://")
        self.start(
            "replay_server", "replay_server", "--connect", HEAD, "--storage", "replay.bin",
            "--bind", f"tcp://{self.replay.address}:{REPLAY_PORT}",
        )  # fmt: skip
        for name in ("near", "far"):
            self.start_actor(name)
        try:
            self.commands["replay_server"].line("restored transitions")
            self.stored = Stored(self.directory / "replay.bin", self.config, self._shape)
            for name in ("near", "far"):
                until(functools.partial(self.rows, name), f"blocks of the {name} actor")
            self._ask()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        for command in self.commands.values():
            command.kill_family()

    # ------------------------------------------------------------------------------ its processes

    def start(self, name: str, module: str, *words: str) -> None:
        """A role on the host that is meant for it."""
        wrapped = ("tests.network.impatient", module) if self._impatient else (module,)
        words = (*wrapped, *words, *SECURITY)
        self.commands[name] = self.hosts[name].start(self.directory, *words)

    def start_learner(self, *words: str) -> None:
        self.start("learner", "learner", "--run-dir", "run", "--bind", "tcp://0.0.0.0:5550", *words)

    def start_actor(self, name: str) -> None:
        self.start(name, "actor", "--connect", HEAD)

    def stop(self) -> None:
        """Ask the head to end the run, and wait until everybody has."""
        self.commands["learner"].process.terminate()
        for name, command in self.commands.items():
            assert command.wait() == 0, f"{name}: {command.output()}"

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(self.commands[name].process.pid)

    def log(self, name: str) -> str:
        return self.commands[name].output()

    def all_run(self) -> bool:
        return all(command.process.poll() is None for command in self.commands.values())

    # --------------------------------------------------------------------------------- how it goes

    def rows(self, name: str) -> int:
        """Of an actor, stored so far; of the far one and those in its place before."""
        by_process = self.stored.by_process()
        near = by_process.pop(self.commands["near"].process.pid, 0)
        return near if name == "near" else sum(by_process.values())

    def status(self) -> Plain:
        """The newest that the head told, asked on its own host: no fault is in between."""
        if self._client is not None:
            self._newest = self._client.latest() or self._newest
        return self._newest

    def status_now(self) -> Plain:
        """What the head tells when it is asked now."""
        assert self._client is not None
        # The first answer may be to an earlier question.
        for _ in range(2):
            self._newest = until(self._client.latest, "the head's status")
        return self._newest

    def updates(self) -> int:
        return int(self.status()["learner"]["updates"])

    def lag(self, name: str) -> int:
        """Updates by which an actor is behind, as far as the head knows; −1: it does not."""
        pid = self.commands[name].process.pid
        status = self.status()
        versions = [
            member["values"]["actor_weights_version"]
            for member in status["members"]
            if member["pid"] == pid and "actor_weights_version" in member["values"]
        ]
        return int(status["learner"]["updates"] - versions[0]) if versions else -1

    def number(self, name: str) -> int | None:
        """The actor's, if the head knows it."""
        pid = self.commands[name].process.pid
        numbers = (m["number"] for m in self.status()["members"] if m["pid"] == pid)
        return next(numbers, None)

    # ------------------------------------------------------------------------------------ its head

    def name_head(self, address: str) -> None:
        """On all hosts."""
        for host in self.hosts.values():
            host.resolve({"head": address})

    def lose_head(self) -> None:
        """The learner's host is gone: nobody hears of it, and no connection is closed."""
        self.head.cut()
        self.commands["learner"].kill_family()
        self._forget()

    def move_head(self) -> None:
        """Another learner takes the run up at a new address, behind the old name."""
        self.head.rejoin()
        self.head.move()
        self.name_head(self.head.address)
        self.start_learner("--resume")
        self.commands["learner"].line("head at tcp://")
        self._ask()

    def _ask(self) -> None:
        with self.head.entered():
            self._client = client = StatusClient(f"tcp://{self.head.address}:5550")
            # What it sends first starts ZeroMQ's thread, which stays where it was started.
            self._newest = until(client.latest, "the head's status")

    def _forget(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
