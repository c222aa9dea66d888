"""Flags of `python -m deploy launch` that say where processes run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import ConfigError
from common.security import Security


@dataclass(kw_only=True)
class Placing:
    """What places the processes of a run, and what it is told."""

    engine: Literal["local", "hosts", "ray", "slurm"] = "local"
    """What places the processes: this host alone, hosts by ssh, a Ray cluster, or Slurm."""
    hosts: Path | None = None
    """TOML file that names hosts to run actors on by ssh, such as deploy/hosts.toml. Implies
    --engine hosts."""
    actors_here: int | None = None
    """How many of the run's actors this command starts itself; the others join from elsewhere.
    None: all of them; with --hosts, as many as the file says for the head."""
    address: str | None = None
    """Of a Ray cluster: HOST:PORT, ray://HOST:10001 or auto. None: that of RAY_ADDRESS, or a
    cluster of this host alone."""
    head_cores: int | None = None
    """Cores that --engine ray and slurm reserve for learner, replay server and evaluator. None: one
    for each of them."""
    head_gpus: int | None = None
    """GPUs that they reserve for the learner. None: one with --device cuda, else none."""
    sbatch: str = ""
    """Further options of sbatch for the whole job: --sbatch="--partition=short --time=4:00:00"."""
    sbatch_head: str = ""
    """Further options of sbatch for the node of the head: --sbatch-head=--partition=gpu."""
    sbatch_actors: str = ""
    """Further options of sbatch for the nodes of the actors."""
    stop_at_eof: bool = False
    """Stop when standard input ends: with the process, or the ssh connection, that holds it."""


def check_placing(options: Placing, *, in_process: bool) -> None:
    """Make `--hosts` choose its engine. Raises ConfigError for flags that contradict each other."""
    if options.hosts is not None and options.engine == "local":
        options.engine = "hosts"
    least = {"actors_here": 0, "head_cores": 1, "head_gpus": 0}
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} {value}: must be at least {bound}")
    if options.address is not None and options.engine != "ray":
        raise ConfigError("--address is that of a Ray cluster: add --engine ray")
    if options.engine not in ("ray", "slurm"):
        refuse_given(options, "it is what Ray and Slurm reserve", "head_cores", "head_gpus")
    if options.engine != "slurm":
        refuse_given(options, "it is for Slurm", "sbatch", "sbatch_head", "sbatch_actors")
    if options.engine == "local":
        return
    if in_process:
        raise ConfigError(f"--in-process is one process: drop --engine {options.engine}")
    if (options.engine == "hosts") != (options.hosts is not None):
        raise ConfigError(
            "--engine hosts and --hosts FILE belong together: deploy/hosts.toml is an example"
        )
    if options.engine != "hosts" and options.actors_here is not None:
        raise ConfigError(f"--engine {options.engine} places all actors: drop --actors-here")


def refuse_given(options: Placing, reason: str, *names: str) -> None:
    """Raises ConfigError for the first of these options that is not as it is by default: nobody
    would heed it."""
    for name in names:
        if getattr(options, name) != getattr(type(options), name):
            raise ConfigError(f"--{name.replace('_', '-')}: {reason}: drop it")


def check_reachable(options: Placing, security: Security) -> None:
    """Raises ConfigError when the head may not listen to actors on other hosts."""
    if security.keys is None and not security.insecure:
        raise ConfigError(
            f"--engine {options.engine}: the actors are on other hosts, and anyone who reaches the "
            "head's port could write experience: give --keys DIR, made by python -m deploy keys "
            "new DIR, or add --insecure on a network you trust"
        )
