"""A real Slurm of three nodes on this machine, from Debian's packages, for one test.

Its nodes claim four cores each, whatever there is, so that jobs of several parts find room: the
parts of a heterogeneous job never share a node.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
WAIT_S = 120.0
needs_slurm = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(program) is None for program in PROGRAMS),
    reason="Slurm's daemons are not here, or want root: apt-get install slurmctld slurmd munge",
)

_CONFIGURATION = """\
ClusterName=zapex
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,bf_resolution=1
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
ReturnToService=2
NodeName=n[1-3] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=4 RealMemory=8000
PartitionName=debug Nodes=ALL Default=YES State=UP
"""


class SlurmCluster:
    """Asks Slurm's own commands."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {"SLURM_CONF": str(directory / "slurm.conf")}

    def run(self, *words: str) -> str:
        answer = subprocess.run(
            words,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, (words, answer.stderr)
        return answer.stdout

    def states(self, job: str) -> set[str]:
        """Of a job's parts, as Slurm writes them: PENDING, RUNNING; none once it has ended."""
        return set(self.run("squeue", "--noheader", "--job", job, "--format=%T").split())

    def queued_again(self, job: str) -> bool:
        """Whether both parts of the job have ended and wait for their next start, for which Slurm
        gives them two minutes."""
        shown = self.run("squeue", "--noheader", "--job", job, "--format=%t %r").splitlines()
        return shown == ["PD BeginTime"] * 2

    def start_now(self, job: str) -> None:
        """A job that was queued again, without those two minutes.

        A node takes no job that began in the second in which it ended the job before.
        """
        _patiently(self.idle, "the nodes to be through with the job")
        for part in ("0", "1"):
            self.run("scontrol", "update", f"JobId={job}+{part}", "StartTime=now+2")

    def idle(self) -> bool:
        """Whether all nodes are there and have nothing to do."""
        states = self.run("sinfo", "--noheader", "--Node", "-o", "%T").split()
        return states == ["idle"] * 3


@contextlib.contextmanager
def slurm_cluster(directory: Path) -> Iterator[SlurmCluster]:
    """Its daemons end with it."""
    host, port = socket.gethostname().partition(".")[0], _free_port()
    for name in ("state", "n1", "n2", "n3"):
        (directory / name).mkdir()
    (directory / "slurm.conf").write_text(
        _CONFIGURATION.format(
            host=host, directory=directory, port=port, first=port + 1, last=port + 3
        )
    )
    cluster = SlurmCluster(directory)
    environment = {**os.environ, **cluster.environment}
    with contextlib.ExitStack() as stack:
        _start_munge(stack)
        for words in (["slurmctld", "-D"], *(["slurmd", "-D", "-N", f"n{i}"] for i in (1, 2, 3))):
            stack.enter_context(_daemon(words, environment))

        def up() -> bool:
            with contextlib.suppress(AssertionError):
                return cluster.idle()
            return False

        wait_until(up, "Slurm's nodes are up", limit_s=WAIT_S)
        try:
            yield cluster
        finally:
            cluster.run("scancel", "--user=root", "--full")
            with contextlib.suppress(TimeoutError):
                _patiently(lambda: not cluster.run("squeue", "--noheader"), "the jobs' end")


def _patiently(condition: Callable[[], object], what: str) -> None:
    def slowly() -> object:
        time.sleep(0.2)  # Each look starts a process.
        return condition()

    wait_until(slowly, what, limit_s=WAIT_S)


def _start_munge(stack: contextlib.ExitStack) -> None:
    """Slurm's daemons know each other by munge, of which there is one on a machine."""
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge")
    words = ["runuser", "-u", "munge", "--", "munged", "--foreground"]
    stack.enter_context(_daemon(words, dict(os.environ)))
    wait_until(
        lambda: subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0,
        "munge answers",
        limit_s=WAIT_S,
    )


@contextlib.contextmanager
def _daemon(words: list[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    """The first of four."""
    for first in range(17_000, 19_000, 4):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + 4):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise OSError("no four free ports in a row")
