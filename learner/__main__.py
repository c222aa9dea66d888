"""`python -m learner`: the head of a run, by hand."""

import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common import run_directory
from common.config import Config, config_from_mapping, read_toml
from common.errors import ConfigError
from common.exporter import MetricsOptions
from common.flags import parse, peek, with_dashes
from common.process import (
    configure_logging,
    outlast_readers,
    run_main,
    stop_at_end_of_input,
    stop_on_signals,
)
from common.security import SecureContext, announce, open_security


@dataclass(kw_only=True)
class Flags:
    """Train, and be the address that replay server, actors and evaluator of the run connect to."""

    run_dir: Path = Path("runs/learner")
    """Where configuration, checkpoints and result go."""
    config: Path | None = None
    """TOML file of configuration values, such as a preset or another run's config.toml."""
    bind: str = "tcp://127.0.0.1:5550"
    """Where the other processes reach this one; weights are sent from the port after it."""
    resume: bool = False
    """Continue the run in run_dir from its newest checkpoint."""
    auto_resume: bool = False
    """Continue the run in run_dir if there is one, else begin it: for whoever starts this again
    and again with the same words, such as Docker, Kubernetes or Slurm. A run that has come to its
    end ends at once, as it did."""
    overwrite: bool = False
    """Replace the run in run_dir if there is one, and whatever other files of a run's names are
    there."""
    stop_at_eof: bool = False
    """Stop when standard input ends: with the ssh connection, or the process, that holds it."""
    keys: Path | None = None
    """The run's key directory. None: what ZAPEX_KEYS or ZAPEX_KEY
    says, or no keys."""
    insecure: bool = False
    """Allow an address that other hosts can reach, without keys; and a --metrics-host without a
    token."""
    metrics_port: int | None = None
    """Port for Prometheus to scrape this process at; 0 takes a free one, none: it cannot."""
    metrics_host: str = "127.0.0.1"
    """Address of the interface it can be scraped at."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages to print."""
    debug: bool = False
    """Print a traceback with an error."""


def main() -> int:
    argv = with_dashes(sys.argv[1:])
    outlast_readers()
    return run_main(lambda: _run(argv), debug="--debug" in argv)


def _run(argv: list[str]) -> int:
    flags, config = parse(Flags, argv, prog="python -m learner", base=_base(argv))
    if flags.auto_resume and (flags.resume or flags.overwrite):
        raise ConfigError("--auto-resume decides by itself: drop --resume and --overwrite")
    metrics = MetricsOptions(flags.metrics_port, flags.metrics_host)
    security = open_security(flags.keys, insecure=flags.insecure)
    resume = flags.resume or (flags.auto_resume and run_directory.is_resumable(flags.run_dir))
    if not resume:
        run_directory.create(flags.run_dir, config, overwrite=flags.overwrite)
    elif flags.auto_resume:
        solved = run_directory.verdict(flags.run_dir, config)
        if solved is not None:
            print(f"the run in {flags.run_dir} has ended: see {flags.run_dir / 'result.json'}")
            return _exit_code(solved, config)

    from learner.loop import LearnerOptions, run_learner

    configure_logging(flags.log_level)
    announce(security)
    stop = threading.Event()
    stop_on_signals(stop)
    if flags.stop_at_eof:
        stop_at_end_of_input(stop.set)
    options = LearnerOptions(flags.run_dir, flags.bind, resume, metrics=metrics)
    with SecureContext(security) as context:
        outcome = run_learner(
            options, config, context, stop, lambda address: print(f"head at {address}", flush=True)
        )
    return _exit_code(outcome.solved, config)


def _exit_code(solved: bool, config: Config) -> int:
    return 0 if solved or config.target_return is None else 1


def _base(argv: list[str]) -> Config:
    run_dir = Path(peek(argv, "--run-dir") or Flags.run_dir)
    if "--resume" in argv or ("--auto-resume" in argv and run_directory.is_resumable(run_dir)):
        return run_directory.stored_config(run_dir)
    path = peek(argv, "--config")
    return config_from_mapping(read_toml(Path(path), "--config"), path) if path else Config()


if __name__ == "__main__":
    sys.exit(main())
