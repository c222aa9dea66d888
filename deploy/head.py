"""`python -m deploy head`: the head of a run whose other roles something else starts: Docker,
Kubernetes, people.

Begins the run, or goes on with it if it is there. The learner is a process of its own: one that is
killed, most often for want of memory, comes back at once and resumes, and this program's exit code
is the run's. An engine's restarts alone cannot tell a run that missed its target from a learner
that crashed (docs/adr/0026-containers.md).
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from common import run_directory
from common.config import Config, write_toml
from common.errors import ConfigError, RunDirectoryError
from common.exporter import Exporter, MetricsOptions
from common.flags import peek
from common.keys import (
    PATH_VARIABLE,
    SERVER_FILE,
    TOKEN_FILE,
    add_client,
    clients,
    make_directory,
    revoke_client,
)
from common.process import stop_at_end_of_input, stop_on_signals
from common.restarts import Ending, MemoryWatch, Patience, RestartPolicy
from common.security import open_security
from deploy import presets
from learner.announcement import HEAD_FILE

LOOK_S = 0.1
STOP_S = 60.0
"""How long a head may take to stop whose standard input has ended."""
ENDED = (0, 1)
"""Exit codes of a learner that came to the run's end: target reached, or missed."""


@dataclass(kw_only=True)
class HeadOptions:
    """Be the head of a run: begin it, or go on with it if it is there. Further options are the
    learner's: python -m learner --help."""

    preset: str = "cartpole"
    """A preset of deploy/presets, several joined by +, or the path of a TOML file."""
    run_dir: Path = Path("runs/head")
    """Where configuration, checkpoints and result go."""
    client_key: Path | None = None
    """With a key directory (ZAPEX_KEYS): make the run's keys if there are none, and put the key
    that actors and evaluator need here."""
    linger: bool = False
    """Once the run has ended, wait to be stopped: for engines that start whatever ends again."""
    stop_at_eof: bool = False
    """Stop when standard input ends: with the ssh connection, or the process, that holds it."""


def head(argv: list[str]) -> int:
    """Returns the run's exit code, as `deploy launch` does.

    Raises RunDirectoryError when the run there is of another environment, ConfigError for what
    the learner would not heed.
    """
    options, learner_flags = tyro.cli(
        HeadOptions, args=argv, prog="python -m deploy head", return_unknown_args=True
    )
    if peek(learner_flags, "--config") is not None:
        raise ConfigError("--config: the head's configuration is a preset: give --preset FILE")
    config = presets.load(options.preset, peek(learner_flags, "--env"))
    _check_same_environment(options.run_dir, config)
    if options.client_key is not None:
        make_keys(options.client_key)
    stop = threading.Event()
    stop_on_signals(stop)
    if options.stop_at_eof:
        stop_at_end_of_input(stop.set, limit_s=STOP_S)
    with tempfile.TemporaryDirectory() as directory:
        preset_file = Path(directory) / "preset.toml"
        write_toml(config, preset_file)
        run_dir = str(options.run_dir)
        words = ["--auto-resume", "--run-dir", run_dir, "--config", str(preset_file)]
        command = [sys.executable, "-m", "learner", "--stop-at-eof", *words, *learner_flags]
        code = keep_learning(command, options.run_dir, stop)
    if options.linger and code in ENDED and not stop.is_set():
        _linger(learner_flags, stop)
    return code


def _check_same_environment(run_dir: Path, config: Config) -> None:
    if run_directory.is_resumable(run_dir):
        stored = run_directory.stored_config(run_dir)
        if stored.env != config.env:
            raise RunDirectoryError(
                f"{run_dir} holds a run of {stored.env}, and {config.env} is wanted: name another "
                "--run-dir (with docker compose: ZAPEX_RUN)"
            )


def make_keys(client_file: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Keys of a run where ZAPEX_KEYS says, and of a client; those that are there stay.

    Raises ConfigError when there is no such variable, or nothing can be written there.
    """
    named = environment.get(PATH_VARIABLE)
    if not named:
        raise ConfigError(f"--client-key needs {PATH_VARIABLE}, the run's key directory")
    directory = Path(named)
    if not (directory / SERVER_FILE).exists():
        make_directory(directory)
        # Who scrapes these metrics is on the run's own network, and has no token to show.
        (directory / TOKEN_FILE).unlink()
    if not client_file.exists():
        if client_file.stem in clients(directory):
            revoke_client(directory, client_file.stem)
        add_client(directory, client_file.stem, client_file)


def keep_learning(
    command: Sequence[str],
    run_dir: Path,
    stop: threading.Event,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> int:
    """Run a learner, and again when it crashes or is killed (docs/adr/0021). What it explains is
    final, and so is the run's end.

    Its standard input ends with this process, however that goes.

    Returns its exit code, or 128 + the signal of the last that was killed.
    """
    policy, memory = RestartPolicy(patience), MemoryWatch()
    while True:
        with subprocess.Popen(command, stdin=subprocess.PIPE) as learner:
            ready_s = _wait_for_end(learner, run_dir / HEAD_FILE, stop)
        code = learner.returncode
        if code >= 0:
            return code
        ending = Ending(
            role="learner",
            code=code,
            explained=False,
            ready_for_s=None if ready_s is None else time.monotonic() - ready_s,
            out_of_memory=code == -signal.SIGKILL and memory.ran_out(),
        )
        verdict = policy.decide(ending)
        if stop.is_set() or verdict.backoff_s is None:
            return 128 - code
        _say(
            f"the learner was killed by signal {-code}: it goes on from its newest checkpoint"
            f"{verdict.tries}"
        )
        stop.wait(verdict.backoff_s)


def _wait_for_end(
    learner: "subprocess.Popen[bytes]", head_file: Path, stop: threading.Event
) -> float | None:
    """When it was ready, as time.monotonic(): it then says in its run directory where its head
    listens. None: it never was."""
    before_ns, ready_s = _written_ns(head_file), None
    while learner.poll() is None:
        if ready_s is None and _written_ns(head_file) not in (None, before_ns):
            ready_s = time.monotonic()
        if stop.wait(LOOK_S):
            learner.terminate()
            learner.wait()
    return ready_s


def _written_ns(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def _linger(learner_flags: list[str], stop: threading.Event) -> None:
    """Answer in the learner's place that all is well until a signal comes."""
    port, host = (peek(learner_flags, flag) for flag in ("--metrics-port", "--metrics-host"))
    metrics = MetricsOptions(None if port is None else int(port), host or "127.0.0.1")
    keys = peek(learner_flags, "--keys")
    security = open_security(
        None if keys is None else Path(keys), insecure="--insecure" in learner_flags
    )
    _say("waiting to be stopped")
    with contextlib.closing(Exporter(metrics, security)) as exporter:
        while not stop.wait(1.0):
            exporter.health.turned()


def _say(line: str) -> None:
    print(f"head: {line}", flush=True)
