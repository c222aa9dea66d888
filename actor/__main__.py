"""`python -m actor --connect tcp://HEAD:5550`: joins the run of that head."""

import faulthandler
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from actor.options import MemberOptions
from actor.processes import process_count, run_processes
from common.errors import ConfigError
from common.exporter import MetricsOptions
from common.membership import JOIN_TIMEOUT_S
from common.process import (
    configure_logging,
    hear_last_words,
    print_error,
    run_main,
    stop_at_end_of_input,
    stop_on_signals,
)
from common.security import SecureContext, Security, announce, open_security


@dataclass
class Flags:
    """Act in the run of a head. Everything else (environment, network, exploration, replay
    address, weights) comes from there."""

    connect: str = "tcp://127.0.0.1:5550"
    """Address of the head, the learner process."""
    envs: int = 0
    """Environments in this actor; 0: as many as the run's configuration says."""
    processes: int | Literal["auto"] | None = None
    """Actor processes on this host, which are restarted and ended together; auto: one for each
    core. None: this process is one."""
    join_timeout: float = JOIN_TIMEOUT_S
    """Seconds to wait to be taken in before giving up."""
    stop_at_eof: bool = False
    """Stop when standard input ends: with the ssh connection, or the process, that holds it."""
    number: int = -1
    """Actor number to take over from a process of this host that died; -1: any."""
    evaluator: bool = False
    """Play greedily and report scores instead of collecting experience."""
    inference: bool = False
    """Compute Q-values for the actors of this host instead of acting, in a run with
    --inference host or gpu."""
    relay: bool = False
    """Take weights from the head for all actors of this host, which then cross the network once:
    instead of acting or, with --processes, beside so many that do."""
    videos: Path | None = None
    """Directory for an evaluator's videos, in a run with --video-period."""
    keys: Path | None = None
    """This host's key file, or the run's key directory. None: what ZAPEX_KEYS or ZAPEX_KEY
    says, or no keys."""
    insecure: bool = False
    """Allow a --metrics-host that other hosts can reach, without a token."""
    metrics_port: int | None = None
    """Port for Prometheus to scrape this process at; 0 takes a free one, none: it cannot."""
    metrics_host: str = "127.0.0.1"
    """Address of the interface it can be scraped at."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages to print."""
    debug: bool = False
    """Print a traceback with an error."""


def main() -> int:
    flags = tyro.cli(Flags, prog="python -m actor")
    return run_main(lambda: _run(flags), debug=flags.debug)


def _run(flags: Flags) -> None:
    if flags.evaluator + flags.inference + flags.relay > 1:
        raise ConfigError(
            "--evaluator, --inference and --relay are different processes: start each by itself"
        )
    if flags.videos is not None and not flags.evaluator:
        raise ConfigError("--videos is where an --evaluator films: nobody else does")
    if flags.processes is not None:
        if flags.evaluator or flags.inference:
            raise ConfigError(
                "--processes are actors, and a --relay if you say so: drop --evaluator and "
                "--inference"
            )
        if flags.number >= 0 or flags.metrics_port:
            raise ConfigError(
                "--processes cannot share a --number or --metrics-port: drop it (0: "
                "each takes a free port)"
            )
    security = open_security(flags.keys, insecure=flags.insecure)
    configure_logging(flags.log_level)
    announce(security)
    faulthandler.enable()
    hear_last_words(print_error)
    stop = threading.Event()
    stop_on_signals(stop)
    if flags.stop_at_eof:
        stop_at_end_of_input(stop.set)
    options = MemberOptions(
        flags.connect,
        num_envs=flags.envs,
        number=flags.number,
        metrics=MetricsOptions(flags.metrics_port, flags.metrics_host),
        join_timeout_s=flags.join_timeout,
        videos=flags.videos,
    )
    if flags.processes is not None:
        count = process_count(flags.processes)
        run_processes(count, options, security, flags.log_level, stop, relay=flags.relay)
    else:
        _be(flags, options, security, stop)


def _be(flags: Flags, options: MemberOptions, security: Security, stop: threading.Event) -> None:
    """The one process that the flags name."""
    import torch

    from actor.evaluator import run_evaluator
    from actor.inference_server import run_inference_server
    from actor.loop import run_actor
    from actor.weight_relay import run_weight_relay

    torch.set_num_threads(1)
    run = run_actor
    if flags.evaluator:
        run = run_evaluator
    elif flags.inference:
        run = run_inference_server
    elif flags.relay:
        run = run_weight_relay
    with SecureContext(security) as context:
        run(options, context, stop, lambda _: None)


if __name__ == "__main__":
    sys.exit(main())
