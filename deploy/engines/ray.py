"""Ray: finds the nodes and starts processes again where one is lost. Data stays on ZeroMQ.

What Ray places are `ray_node.NodeCommand`s: an actor in Ray's sense, with cores and GPUs
reserved, that runs one command as a process of its own. The head's group is one of them, so that
learner and replay server share a node; each zapex actor is another, spread over the nodes. Ray
moves words, keys and exit codes alone. A process ends with the `NodeCommand` that has started it,
for that holds its standard input.
"""

import contextlib
import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import transport
from common.children import role_failed
from common.config import Config
from common.errors import ConfigError
from common.keys import KEY_VARIABLE, PATH_VARIABLE
from common.restarts import Ending, Patience, RestartPolicy
from common.security import Security
from deploy.engines.fleet import Ended, Fleet
from deploy.engines.options import Placing, check_reachable
from deploy.engines.ray_node import NodeCommand
from deploy.live_view import LiveView
from deploy.status_client import StatusClient
from deploy.topology import (
    Group,
    Resources,
    actor_words,
    groups,
    head_words,
    security_words,
)

POLL_S = 0.2
ASK_PERIOD_S = 1.0
"""Between two looks at what Ray says of a place."""
PENDING_S = 10.0
"""A place that has no node after so long is said to wait for one."""
STOP_S = 60.0
"""For the head to end with its last checkpoint, as on a host of its own."""
LISTENS_S = 5.0
KEYS = (PATH_VARIABLE, KEY_VARIABLE)
"""Variables that commands on other nodes get as they are here. Each is an argument of its place:
the environment that Ray itself is told stands in its logs, which others can read."""


def run_on_ray(
    options: Placing,
    config: Config,
    run_dir: Path,
    bind: str,
    stop: threading.Event,
    view: LiveView,
    security: Security,
    keys: Path | None,
) -> None:
    """Run until the head ends or `stop` is set.

    Args:
        bind: where the head is to listen; port 0: a free one of its node.
        keys: the run's key directory, which all nodes see; None: as the environment says.

    Raises ConfigError when Ray is not there or no node can hold the head, RoleFailed when the head
    cannot be kept alive, in its own words.
    """
    ray = _ray()
    head, actors = groups(config, head_cores=options.head_cores, head_gpus=options.head_gpus)
    with _cluster(ray, options.address, head.needs, actors) as alone:
        _check_room(ray, head.needs, actors, view.say)
        if not alone:
            check_reachable(options, security)
        logs = run_dir.resolve() / "logs"
        interface = "127.0.0.1" if alone else "0.0.0.0"

        def words(port: int) -> list[str]:
            listen = bind if not bind.endswith(":0") else f"tcp://{interface}:{port}"
            told = security_words(keys, insecure=security.insecure)
            return [*head_words(run_dir.resolve(), listen), *told]

        def actor(address: str) -> list[str]:
            return [*actor_words(address), *security_words(keys)]

        places = [RayPlace(ray, f"actor-{i}", actors, actor, logs) for i in range(actors.count)]
        fleet = Fleet(places, view.say)
        policy = RestartPolicy(Patience(first_backoff_s=1.0))
        while not stop.is_set():
            ended, worked_s = _run_head(ray, head, words, logs, fleet, stop, view, security)
            if ended is None or ended.exit_code in (0, 1):
                return
            # A node that goes takes the head with it from outside; whatever else ends the head, its
            # launcher has tried to mend.
            lost = ended.exit_code == _LOST
            verdict = policy.decide(
                Ending("head", -signal.SIGKILL, explained=False, ready_for_s=worked_s)
            )
            if not lost or verdict.backoff_s is None:
                raise role_failed(ended.exit_code, ended.words)
            view.say(f"head: {ended.words}: starting it again, from its newest checkpoint")
            stop.wait(verdict.backoff_s)


_LOST = -1
"""Exit code of a process whose node is gone."""


class RayPlace:
    """A `fleet.Place`: where one group's command runs, seen from here."""

    def __init__(
        self, ray: Any, name: str, group: Group, words: Callable[[str], list[str]], logs: Path
    ) -> None:
        self._ray, self._name, self._group, self._words = ray, name, group, words
        self._log_file = logs / f"ray-{name}.log"
        self._actor: Any = None
        self._run: Any = None
        self._node: Any = None
        self._next_look_s = 0.0

    @property
    def name(self) -> str:
        return self._name

    @property
    def vital(self) -> bool:
        return False

    @property
    def acts(self) -> bool:
        return True

    def place(self) -> None:
        """Ask Ray for a node, without waiting."""
        # Where a group may move, Ray itself starts the place again when its node is lost.
        retries = -1 if self._group.moves else 0
        needs = self._group.needs
        self._actor = (
            self._ray.remote(NodeCommand)
            .options(
                num_cpus=needs.cores,
                num_gpus=needs.gpus,
                max_restarts=retries,
                max_task_retries=retries,
                max_concurrency=3,
                scheduling_strategy="SPREAD" if self._group.moves else "DEFAULT",
            )
            .remote()
        )
        self._node = self._actor.node.remote()

    def node(self) -> tuple[str, int] | None:
        """Address and ports of the node, once there is one. Raises what became of it instead."""
        ready, _ = self._ray.wait([self._node], timeout=0)
        return self._ray.get(self._node) if ready else None

    def start(self, head: str) -> None:
        self.place()
        self.run(self._words(head))

    def run(self, words: list[str]) -> None:
        """Run the command there, when there is a node."""
        self._run = self._actor.run.remote(
            words, str(Path.cwd()), str(self._log_file), _variables(*KEYS)
        )

    def ended(self) -> Ended | None:
        now_s = time.monotonic()
        if self._run is None or now_s < self._next_look_s:
            return None
        self._next_look_s = now_s + ASK_PERIOD_S
        ready, _ = self._ray.wait([self._run], timeout=0)
        if not ready:
            return None
        try:
            code, words = self._ray.get(self._run)
        except self._ray.exceptions.RayError:
            return Ended(_LOST, "its node is gone")
        return Ended(code, words or f"ended with exit code {code}")

    def ask_to_stop(self) -> None:
        if self._actor is not None:
            self._actor.stop.remote()

    def abandon(self) -> None:
        if self._actor is not None:
            self._ray.kill(self._actor)
            self._actor = self._run = self._node = None


def _run_head(
    ray: Any,
    group: Group,
    words: Callable[[int], list[str]],
    logs: Path,
    fleet: Fleet,
    stop: threading.Event,
    view: LiveView,
    security: Security,
) -> tuple[Ended | None, float | None]:
    """The head's group and, as long as it lives, the actors. Returns how it ended (None: it was
    stopped), and for how many seconds it had answered (None: it never did)."""
    place = RayPlace(ray, "head", group, lambda _: [], logs)
    place.place()
    try:
        try:
            node = _wait_for_node(ray, place, group.needs, stop, view)
        except ray.exceptions.RayError:
            return Ended(_LOST, "its node is gone"), None
        if node is None:
            return None, None
        command = words(node[1])
        listens_at = command[command.index("--bind") + 1]
        address = transport.reachable(listens_at, f"tcp://{node[0]}:0")
        place.run(command)
        view.show_head(address)
        fleet.start(address)
        answered_s: float | None = None
        with contextlib.closing(StatusClient(address, security=security)) as status:
            while (ended := place.ended()) is None:
                fleet.poll()
                latest = status.latest()
                if latest is not None and answered_s is None:
                    answered_s = time.monotonic()
                view.update(latest)
                if stop.wait(POLL_S):
                    view.say("stopping: writing a checkpoint")
                    place.ask_to_stop()
                    _wait_for_end(place)
                    return None, None
        return ended, None if answered_s is None else time.monotonic() - answered_s
    finally:
        fleet.stop()
        place.abandon()


def _wait_for_end(place: RayPlace) -> None:
    deadline_s = time.monotonic() + STOP_S
    while place.ended() is None and time.monotonic() < deadline_s:
        time.sleep(POLL_S)


def _wait_for_node(
    ray: Any, place: RayPlace, needs: Resources, stop: threading.Event, view: LiveView
) -> tuple[str, int] | None:
    said_s = time.monotonic() + PENDING_S
    while not stop.wait(POLL_S):
        node = place.node()
        if node is not None:
            return node
        if time.monotonic() > said_s:
            said_s = float("inf")
            free = ray.available_resources().get("CPU", 0.0)
            view.say(
                f"head: waiting for a node with {_in_words(needs)} free; the cluster has "
                f"{free:g} cores free in all, others use the rest"
            )
    return None


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("--engine ray needs the package ray: pip install 'zapex[ray]'") from error


@contextlib.contextmanager
def _cluster(ray: Any, address: str | None, head: Resources, actors: Group) -> Iterator[bool]:
    """Connected to a cluster. Yields whether it is this host alone, made for this run."""
    address = address or os.environ.get("RAY_ADDRESS")
    _check_listens(address)
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {"env_vars": _variables("PYTHONPATH")},
    }
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address is None:
            cores = head.cores + actors.count * actors.needs.cores
            cores = max(cores, os.cpu_count() or 1)
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **common)
        else:
            ray.init(address=address, **common)
    except Exception as error:  # Some of what Ray raises has no class of its own.
        raise ConfigError(_no_cluster(address, str(error).partition("\n")[0])) from error
    # Ray has put its own in their place.
    for number, handler in signals.items():
        signal.signal(number, handler)
    try:
        yield address is None
    finally:
        ray.shutdown()


def _variables(*names: str) -> dict[str, str]:
    """Those of this process's environment that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}


def _check_listens(address: str | None) -> None:
    """Raises ConfigError when nobody does: Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=LISTENS_S).close()
    except OSError as error:
        raise ConfigError(_no_cluster(address, str(error))) from error


def _no_cluster(address: str | None, reason: str) -> str:
    return (
        f"--engine ray: no cluster at {address or 'this host'} ({reason}): start one with "
        "ray start --head, or leave --address out"
    )


def _check_room(ray: Any, head: Resources, actors: Group, say: Callable[[str], None]) -> None:
    """Raises ConfigError when no node can ever hold the head; says how many actors must wait."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(n.get("CPU", 0) >= head.cores and n.get("GPU", 0) >= head.gpus for n in nodes):
        have = ", ".join(f"{n.get('CPU', 0):g} cores {n.get('GPU', 0):g} GPUs" for n in nodes)
        raise ConfigError(
            f"--engine ray: no node has the {_in_words(head)} that the head wants (there are: "
            f"{have}): add one, or lower --head-cores and --head-gpus"
        )
    room = sum(n.get("CPU", 0) for n in nodes) - head.cores
    fit = int(max(room, 0) // actors.needs.cores)
    if fit == 0:
        raise ConfigError(
            f"--engine ray: the cluster has {room + head.cores:g} cores, the head wants "
            f"{head.cores} and nothing is left for an actor: add nodes, or lower --head-cores"
        )
    if fit < actors.count:
        say(
            f"the cluster has room for {fit} of {actors.count} actors: the others start when nodes "
            "are added"
        )


def _in_words(needs: Resources) -> str:
    return f"{needs.cores} cores" + (f" and {needs.gpus} GPUs" if needs.gpus else "")
