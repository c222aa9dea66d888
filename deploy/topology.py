"""What a run consists of, as data. Every way of starting one reads this.

learner (the head)  →  replay_server, evaluator, inference, actors: told the head's address alone

A role is a call within a process (`run_role`, for the launcher and for threads) or a command line,
for whatever starts processes elsewhere. What is placed are groups, which have a host to themselves
or share one; `deploy/engines/` has a small file for each engine that places them.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import zmq

from common.config import Config
from common.exporter import NO_METRICS, MetricsOptions

Ready = Callable[[str], None]
Run = Callable[[zmq.Context[zmq.Socket[bytes]], threading.Event, Ready], Any]


@dataclass(frozen=True, slots=True)
class Resources:
    """What processes want of their host."""

    cores: int = 1
    gpus: int = 0
    memory_gb: float = 1.0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(
            self.cores + other.cores, self.gpus + other.gpus, self.memory_gb + other.memory_gb
        )


NEEDS = {
    "learner": Resources(memory_gb=2.0),
    "replay_server": Resources(),
    "evaluator": Resources(),
    "inference": Resources(),
    "actor": Resources(),
}
"""Of one process each, without the experience and without GPUs, which are the configuration's."""
ROLES = frozenset(NEEDS)


@dataclass(frozen=True, slots=True)
class Group:
    """Processes that share a host and are started by one command there, which keeps them running.

    An engine finds `count` places for `needs` and runs the command in each.
    """

    roles: tuple[str, ...]
    count: int
    needs: Resources
    """Of one place."""
    moves: bool
    """Whether it may be started again on another host, whatever files that one sees."""


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """One process of a run. Picklable: it is sent to the process it describes."""

    name: str
    """Unique within the run: learner, replay_server, evaluator, inference, actor-0, …"""
    role: str
    config: Config
    run_dir: Path
    head: str
    """Where the head listens; for the learner itself: where it is to listen."""
    bind: str = ""
    """Where a replay server or an inference process is to listen."""
    number: int = 0
    """Of this process among its role."""
    resume: bool = False
    """The learner continues from its newest checkpoint."""
    keys: Path | None = None
    """The run's key directory, which the process reads itself; None: as its environment says."""
    insecure: bool = False
    """Listen where other hosts can reach it, even without keys."""
    started_s: float | None = None
    """When the run began, as time.monotonic()."""
    metrics: MetricsOptions = NO_METRICS
    """Where Prometheus can scrape this process."""
    profile: Path | None = None
    """Directory in which learner, replay server, actors and inference record their phases."""

    @property
    def log_file(self) -> Path:
        return self.run_dir / "logs" / f"{self.name}.log"

    def restarted(self, address: str) -> "RoleSpec":
        """The same role in place of a process that died; it listens where that one did."""
        if self.role == "learner":
            # The time before it died is in its checkpoint.
            return replace(self, resume=True, head=address or self.head, started_s=None)
        return replace(self, bind=address or self.bind)


def follower_roles(
    config: Config,
    run_dir: Path,
    head: str,
    replay_bind: str,
    *,
    keys: Path | None = None,
    insecure: bool = False,
    metrics: MetricsOptions = NO_METRICS,
    profile: Path | None = None,
) -> list[RoleSpec]:
    """Everything that joins the head. `metrics`: of the learner; each of these takes a free port
    where that has one, which the head learns when it joins."""
    inference: list[RoleSpec] = []
    if config.inference != "actor":
        # Its actors are on this host. Within a process, or where the run lives in the file system,
        # they find it beside the head.
        bind = "tcp://127.0.0.1:0" if head.startswith("tcp://") else f"{head}-inference"
        inference.append(RoleSpec("inference", "inference", config, run_dir, head, bind=bind))
    replays = [
        RoleSpec(
            name,
            "replay_server",
            config,
            run_dir,
            head,
            bind=_numbered(replay_bind, number),
            number=number,
        )
        for number, name in enumerate(replay_names(config))
    ]
    roles = [
        *replays,
        *inference,
        *(
            RoleSpec(f"actor-{i}", "actor", config, run_dir, head, number=i)
            for i in range(config.actors)
        ),
        RoleSpec("evaluator", "evaluator", config, run_dir, head),
    ]
    if metrics.metrics_port is not None:
        metrics = replace(metrics, metrics_port=0)
    return [
        replace(role, keys=keys, insecure=insecure, metrics=metrics, profile=profile)
        for role in roles
    ]


def groups(
    config: Config, *, head_cores: int | None = None, head_gpus: int | None = None
) -> tuple[Group, Group]:
    """The head's group and the actors', for an engine to place.

    Learner and replay server share a host, so that batches go through its memory and not over the
    network; the evaluator is with them because its videos belong into the run's directory. Actors
    need nothing but the head's address.

    Args:
        head_cores, head_gpus: instead of what the configuration says.
    """
    roles = ("learner", *["replay_server"] * config.replay_servers, "evaluator")
    needs = sum((NEEDS[role] for role in roles), Resources(0, 0, _replay_gb(config)))
    needs = replace(
        needs,
        cores=needs.cores if head_cores is None else head_cores,
        gpus=int(config.device.startswith("cuda")) if head_gpus is None else head_gpus,
    )
    return (
        Group(roles, 1, needs, moves=False),
        Group(("actor",), config.actors, NEEDS["actor"], moves=True),
    )


def _replay_gb(config: Config) -> float:
    """Memory that the experience takes. A file's pages need not stay there."""
    if config.replay_storage == "file":
        return 0.0
    return config.replay_servers * _replay_bytes(config) / 1e9


def _replay_bytes(config: Config) -> int:
    """Of one replay server."""
    # Imported here, as below: an environment is made, to see how large its observations are.
    from common.environments import probe_spec
    from common.manifest import Manifest
    from replay_server.server import replay_bytes

    return replay_bytes(Manifest("", config, probe_spec(config)))


def check_memory(config: Config) -> None:
    """Raises ZapexError where a run's replay servers, all on this host, do not fit into its memory
    together. Memory is taken as it is written to: when they begin, each finds room for itself."""
    if config.replay_storage == "memory" and config.replay_servers > 1:
        from replay_server.placement import refuse_together

        refuse_together(config.replay_servers, _replay_bytes(config))


def security_words(keys: Path | None, *, insecure: bool = False) -> list[str]:
    """Further words for a process that sees this host's files. `keys`: as `--keys` has it."""
    words = [] if keys is None else ["--keys", str(keys.resolve())]
    return [*words, *(["--insecure"] if insecure else [])]


def head_words(run_dir: Path, bind: str) -> list[str]:
    """After `python -m`: the head's group, from the configuration in its run directory. It begins
    the run or goes on with it, whichever it is."""
    return ["deploy", "launch", "--resume", str(run_dir), "--actors-here", "0", "--bind", bind]


def actor_words(head: str, processes: int | str = 1, *, relay: bool = False) -> list[str]:
    """After `python -m`: the actors of one host, with a weight relay of their own or without."""
    words = ["actor", "--connect", head, "--processes", str(processes)]
    return [*words, "--relay"] if relay else words


def inference_words(head: str) -> list[str]:
    """After `python -m`: what computes for the actors of one host."""
    return ["actor", "--inference", "--connect", head]


def replay_words(head: str, bind: str, storage: Path | None) -> list[str]:
    """After `python -m`: a replay server on another host than the head, which takes over from one
    that died there."""
    words = ["replay_server", "--connect", head, "--bind", bind, "--number", "0"]
    if storage is not None:
        words += ["--storage", str(storage)]
    return words


def _numbered(bind: str, number: int) -> str:
    """Addresses within a process or in the file system are names: each server has its own."""
    return bind if number == 0 or bind.startswith("tcp://") else f"{bind}-{number}"


def replay_names(config: Config) -> list[str]:
    """Of the replay servers, by number."""
    if config.replay_servers == 1:
        return ["replay_server"]
    return [f"replay_server-{number}" for number in range(config.replay_servers)]


def replay_storage(config: Config, run_dir: Path) -> Path | None:
    """The file that a replay server of the launcher's keeps its experience in, if it is to have
    one; where there are several, each adds its number."""
    if config.replay_storage == "file":
        return run_dir / "replay" / "storage"
    if config.replay_storage == "shm":
        # Runs of the same name in different directories are different runs.
        digest = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()
        return Path("/dev/shm") / f"zapex-{run_dir.name}-{digest[:8]}"
    return None


def discard_shared_memory(config: Config, run_dir: Path) -> None:
    """Give back what a run's experience takes in /dev/shm: at its end, and before a new run in the
    same directory, for one that was killed with its launcher has left it there."""
    # Imported here, as below.
    from replay_server.placement import numbered

    storage = replay_storage(config, run_dir)
    if storage is not None and config.replay_storage == "shm":
        for number in range(config.replay_servers):
            numbered(storage, number, config.replay_servers).unlink(missing_ok=True)


def run_role(
    spec: RoleSpec,
    context: zmq.Context[zmq.Socket[bytes]],
    stop: threading.Event,
    ready: Ready,
) -> None:
    """Be that role until the run or `stop` ends it."""
    # Imported here: whoever only reads the topology needs neither torch nor gymnasium.
    if spec.role == "learner":
        from learner.loop import LearnerOptions, run_learner

        run_learner(
            LearnerOptions(
                spec.run_dir,
                spec.head,
                spec.resume,
                spec.started_s,
                spec.metrics,
                spec.profile,
            ),
            spec.config,
            context,
            stop,
            ready,
        )
    elif spec.role == "replay_server":
        from replay_server.server import ReplayOptions, run_replay_server

        storage = replay_storage(spec.config, spec.run_dir)
        run_replay_server(
            ReplayOptions(
                spec.head,
                spec.bind,
                storage,
                spec.number,
                spec.metrics,
                spec.profile,
            ),
            context,
            stop,
            ready,
        )
    else:
        from actor.evaluator import run_evaluator
        from actor.inference_server import run_inference_server
        from actor.loop import run_actor
        from actor.options import MemberOptions

        run = {
            "actor": run_actor,
            "evaluator": run_evaluator,
            "inference": run_inference_server,
        }[spec.role]
        options = MemberOptions(
            spec.head,
            spec.bind,
            number=spec.number,
            metrics=spec.metrics,
            profile=spec.profile,
            videos=spec.run_dir / "videos",
        )
        run(options, context, stop, ready)
