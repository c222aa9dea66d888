"""`python -m deploy launch`: one command from nothing to a trained agent."""

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common import run_directory, transport
from common.config import Config
from common.errors import ConfigError, RoleFailed
from common.exporter import MetricsOptions
from common.flags import parse, peek
from common.process import (
    INTERRUPTED,
    configure_logging,
    handling_signals,
    process_start_s,
    stop_at_end_of_input,
)
from common.security import Security, announce, open_security, summary
from deploy import launcher, presets
from deploy.dashboard.beside import page_beside
from deploy.engines.fleet import Fleet
from deploy.engines.hosts import Hosts, read_hosts
from deploy.engines.options import Placing, check_placing, refuse_given
from deploy.interruption import Interruption
from deploy.live_view import LiveView, show_return
from deploy.named_code import tell_named_code
from deploy.profile import Profile, recording
from deploy.status_client import StatusClient
from deploy.topology import ROLES, RoleSpec, check_memory, discard_shared_memory, follower_roles

POLL_S = 0.1
STOP_S = 60.0
"""How long a launch may take to stop whose standard input has ended."""


@dataclass(kw_only=True)
class Launch:
    """Train an agent: learner, replay server, actors and evaluator as processes, on this host
    unless another --engine places them.

    Ends by itself when the greedy score reaches the target (exit code 0) or the budget of
    environment steps is spent (exit code 1). Ctrl-C stops cleanly; --resume goes on from there."""

    preset: str | None = None
    """A preset of deploy/presets, or the path of a TOML file of your own; several are laid over
    each other (pong+atari_paper). Without it and --env: cartpole."""
    run_dir: Path | None = None
    """Directory for checkpoints, logs and result. None: runs/ENV-seedS-TIME."""
    resume: Path | None = None
    """Run directory of a run to continue, with its configuration, counters and experience."""
    overwrite: bool = False
    """Replace the run in run_dir if there is one, and whatever other files of a run's names are
    there."""
    in_process: bool = False
    """All roles as threads of this process, for debugging."""
    deterministic: bool = False
    """With --in-process: all roles in turn, in one thread, so that the same command gives the same
    weights, bit by bit, and a debugger steps from one role into the next."""
    bind: str = "tcp://127.0.0.1:0"
    """Where the head listens, for more actors to join; port 0 takes a free one."""
    keys: Path | None = None
    """The run's key directory (python -m deploy keys new DIR): every connection is encrypted, and
    only who is on its list can join. None: what ZAPEX_KEYS or ZAPEX_KEY says, or no keys."""
    insecure: bool = False
    """Allow an address that other hosts can reach, without keys; and a --metrics-host without a
    token."""
    metrics_port: int | None = None
    """Port for Prometheus to scrape the learner at, 0 takes a free one; the other processes take
    free ones, all of which RUN_DIR/prometheus.json names. None: nothing can be scraped."""
    metrics_host: str = "127.0.0.1"
    """Address of the interface they can be scraped at."""
    profile: bool = False
    """Record for 200 updates what learner, replay server, actors and inference process do: writes
    RUN_DIR/trace.json, for Perfetto."""
    dashboard: bool = False
    """Serve a page with the runs beside this one, and print its address. Needs the extra
    dashboard."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages in the log files."""
    debug: bool = False
    """Print a traceback with an error."""


@dataclass(kw_only=True)
class PlacedLaunch(Placing, Launch):
    __doc__ = Launch.__doc__


def launch(argv: list[str]) -> int:
    """Returns the exit code. Raises ZapexError for what ends a run before its result."""
    started_s = process_start_s()
    placed = peek(argv, "--engine") in ("ray", "slurm")
    if "--in-process" not in argv and not placed and not {"-h", "--help"} & set(argv):
        launcher.preload()
    options, config = parse(PlacedLaunch, argv, prog="python -m deploy launch", base=_base(argv))
    check_placing(options, in_process=options.in_process)
    hosts = None if options.hosts is None else read_hosts(options.hosts)
    if hosts is not None:
        if options.actors_here is None:
            options.actors_here = hosts.head.actors
        # The ladder of ε is as long as all actors need it, from the start.
        known = hosts.known_actors_elsewhere + options.actors_here
        config = config.model_copy(update={"actors": max(config.actors, known)})
        if options.bind == Launch.bind:
            options.bind = hosts.head.bind
        if hosts.replay_elsewhere and config.replay_servers > 1:
            raise ConfigError(
                f"{options.hosts} has one replay server on another host, and --replay-servers "
                f"{config.replay_servers} are to be here: leave one of the two out"
            )
    _refuse_contradictions(options, config)
    if options.resume is not None:
        # Already the memory of several replays is reckoned from the environment.
        tell_named_code(options.resume, config)
    if not placed:
        check_memory(config)
    metrics = MetricsOptions(options.metrics_port, options.metrics_host)
    security = open_security(options.keys, insecure=options.insecure)
    run_dir = _run_directory(options, config)
    if options.engine == "slurm":
        from deploy.engines.slurm import submit

        return submit(options, config, run_dir, options.bind, security, options.keys)
    stop = threading.Event()
    interruption = Interruption(stop)
    if options.stop_at_eof:
        stop_at_end_of_input(interruption.heed, limit_s=STOP_S)
    title = f"{config.env}, seed {config.seed}: {run_dir}"
    runs_dir = run_dir.parent if options.dashboard else None
    # On Ray, the head's launcher holds the directory, wherever it is.
    on_ray = options.engine == "ray"
    hold = (
        contextlib.nullcontext() if on_ray else run_directory.held(run_dir, run_directory.LAUNCHER)
    )
    with (
        hold,
        handling_signals(interruption.heed),
        LiveView(title) as view,
        page_beside(runs_dir, view.say, options.keys),
    ):
        try:
            if options.in_process:
                _in_process_runner(options.deterministic)(
                    config,
                    run_dir,
                    resume=options.resume is not None,
                    started_s=started_s,
                    log_level=options.log_level,
                    stop=stop,
                    view=view,
                )
            elif on_ray:
                from deploy.engines.ray import run_on_ray

                bind, keys = options.bind, options.keys
                run_on_ray(options, config, run_dir, bind, stop, view, security, keys)
            else:
                _run_processes(
                    options, security, metrics, config, run_dir, started_s, interruption, view
                )
        finally:
            discard_shared_memory(config, run_dir)
    # On Ray the head has drawn them.
    return _conclude(config, run_dir, interruption.came(), draws=not on_ray)


def _refuse_contradictions(options: PlacedLaunch, config: Config) -> None:
    if options.resume is not None:
        refuse_given(options, "--resume names the run's directory", "run_dir", "overwrite")
    if options.engine in ("ray", "slurm"):
        reason = f"--engine {options.engine} starts a head that is not told of it"
        refuse_given(options, reason, "metrics_port", "metrics_host", "profile", "log_level")
    if options.engine == "slurm":
        refuse_given(options, "--engine slurm only submits a job", "dashboard", "stop_at_eof")
    if options.in_process:
        unheeded = ("metrics_port", "metrics_host", "bind", "actors_here")
        refuse_given(options, "--in-process is one process, which listens nowhere", *unheeded)
    if options.in_process and options.profile:
        raise ConfigError("--profile looks at processes: drop --in-process")
    if options.in_process and options.keys:
        raise ConfigError("--keys is for connections between processes: drop it")
    if options.deterministic and not options.in_process:
        raise ConfigError("--deterministic runs all roles in one process: add --in-process")
    if options.deterministic:
        from deploy.deterministic import refuse_unrepeatable

        refuse_unrepeatable(config)


def _in_process_runner(deterministic: bool) -> Callable[..., None]:
    # Imported here: with processes, their parent needs neither torch nor gymnasium.
    if deterministic:
        from deploy.deterministic import run_deterministic

        return run_deterministic
    from deploy.in_process import run_in_process

    return run_in_process


def _run_processes(
    options: PlacedLaunch,
    security: Security,
    metrics: MetricsOptions,
    config: Config,
    run_dir: Path,
    started_s: float,
    interruption: Interruption,
    view: LiveView,
) -> None:
    stop = interruption.stop
    configure_logging(options.log_level, run_dir / "logs" / "launcher.log")
    announce(security)
    if said := summary(security):
        view.say(said)
    supervisor = launcher.Supervisor(options.log_level, view.say, stop.is_set)
    elsewhere: Fleet | Hosts = Fleet([], view.say)
    roles = ROLES
    actors_here = config.actors
    if options.actors_here is not None:
        actors_here = min(options.actors_here, config.actors)
    if options.hosts is not None:
        elsewhere = Hosts(
            options.hosts,
            run_dir / "logs",
            view.say,
            insecure=options.insecure,
            actors_here=actors_here,
        )
        if elsewhere.file.replay_elsewhere:
            roles = ROLES - {"replay_server"}
    if not actors_here:
        roles = roles - {"inference"}  # Its actors would be those of this host.
    tracks = recording(config, roles, actors_here)
    profile = Profile(run_dir, tracks) if options.profile else None
    recorded_in = None if profile is None else profile.directory
    try:
        supervisor.start(
            RoleSpec(
                "learner",
                "learner",
                config,
                run_dir,
                options.bind,
                resume=options.resume is not None,
                keys=options.keys,
                insecure=options.insecure,
                started_s=started_s,
                metrics=metrics,
                profile=recorded_in,
            )
        )
        head = supervisor.wait_ready("learner")
        if head is None:
            return
        # The replay server listens where the head does: on loopback, or for other hosts too.
        replay_bind = f"{options.bind}-replay"
        if options.bind.startswith("tcp://"):
            replay_bind = options.bind.rpartition(":")[0] + ":0"
        view.show_head(head)
        elsewhere.start(head)
        head = transport.reachable(head, "tcp://127.0.0.1")
        for spec in follower_roles(
            config,
            run_dir,
            head,
            replay_bind,
            keys=options.keys,
            insecure=options.insecure,
            metrics=metrics,
            profile=recorded_in,
        ):
            if spec.role in roles and (spec.role != "actor" or spec.number < actors_here):
                supervisor.start(spec)
        announced = False
        with contextlib.closing(StatusClient(head, security=security)) as status:
            while "learner" in supervisor.children or supervisor.restarting("learner"):
                supervisor.poll(POLL_S)
                elsewhere.poll()
                if not announced and supervisor.all_ready:
                    announced = True
                    names = ", ".join(supervisor.children)
                    view.say(f"ready after {time.monotonic() - started_s:.1f} s: {names}")
                view.update(status.latest())
                if profile is not None:
                    for line in profile.collect():
                        view.say(line)
                if stop.is_set():
                    view.say("stopping: writing a checkpoint (Ctrl-C again: without it)")
                    return
    finally:
        supervisor.stop(interruption.hurried)
        elsewhere.stop()
        if profile is not None:
            for line in profile.collect(at_the_end=True):
                view.say(line)


def _run_directory(options: Launch, config: Config) -> Path:
    if options.resume is not None:
        run_directory.require_writable(options.resume)
        return options.resume
    name = re.sub(r"[^A-Za-z0-9.]+", "-", config.env)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    run_dir = options.run_dir or Path("runs") / f"{name}-seed{config.seed}-{stamp}"
    run_directory.create(run_dir, config, overwrite=options.overwrite)
    discard_shared_memory(config, run_dir)
    return run_dir


def _base(argv: list[str]) -> Config:
    """What the flags change: a stored run's configuration, a preset's, or the defaults."""
    resume, preset, env = (peek(argv, flag) for flag in ("--resume", "--preset", "--env"))
    if resume is not None:
        if preset is not None:
            raise ConfigError("--resume continues a run with its own configuration: drop --preset")
        return run_directory.stored_config(Path(resume))
    if preset is None and env is not None:
        return Config()
    return presets.load(preset or "cartpole", env)


def _conclude(config: Config, run_dir: Path, interrupted: bool, *, draws: bool = True) -> int:
    """Say how it ended; the exit code. `draws`: pictures, too."""
    path = run_dir / "result.json"
    result = json.loads(path.read_text()) if path.exists() else None
    # Somebody may have stopped the learner alone, or its node has.
    if interrupted or (result is not None and result["reason"] == "stopped"):
        print(f"stopped. Continue with: python -m deploy launch --resume {run_dir}", flush=True)
        if draws:
            _draw_pictures(run_dir)
        return INTERRUPTED
    if result is None:
        raise RoleFailed(f"the learner ended without a result: see {run_dir / 'logs'}")
    score = result["eval_return_mean"]
    shown = (
        "no greedy score"
        if score is None
        else (
            f"greedy return {show_return(score)} ± {show_return(result['eval_return_std'])} "
            f"over {result['eval_episodes']} episodes"
        )
    )
    verdict = (
        "solved"
        if result["solved"]
        else ("budget spent" if config.target_return is None else "target not reached")
    )
    print(
        f"{verdict}: {config.env}, {shown}"
        + ("" if config.target_return is None else f" (target {config.target_return:g})")
        + f", {result['env_steps']:,} env steps, {result['learner_updates']:,} updates, "
        f"{result['wall_s']:.1f} s"
    )
    print(f"  everything lies in {run_dir}")
    print(f"  python -m deploy evaluate {run_dir} --episodes 100")
    print(f"  python -m deploy play {run_dir} --q-values")
    sys.stdout.flush()
    if draws:
        _draw_pictures(run_dir)
    return 0 if result["solved"] or config.target_return is None else 1


def _draw_pictures(run_dir: Path) -> None:
    """An extra: whatever happens here, the run has ended as it has."""
    try:
        # Imported here: matplotlib would cost every start half a second.
        from deploy.curves import draw_run
        from deploy.history import read_history

        pictures = draw_run(read_history(run_dir))
        print(f"  pictures: {', '.join(map(str, pictures))}", flush=True)
    except ImportError:
        print("  no pictures: pip install 'zapex[watch]'", flush=True)
    except (Exception, KeyboardInterrupt) as error:
        print(f"  no pictures: {str(error) or type(error).__name__}", flush=True)
