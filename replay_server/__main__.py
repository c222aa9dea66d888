"""`python -m replay_server --connect tcp://HEAD:5550`: serves the replay of that head's run."""

import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from common.errors import ConfigError
from common.exporter import MetricsOptions
from common.membership import JOIN_TIMEOUT_S
from common.process import configure_logging, run_main, stop_at_end_of_input, stop_on_signals
from common.security import SecureContext, announce, open_security


@dataclass
class Flags:
    """Keep and serve the experience of a run. Its shape and settings come from the head."""

    connect: str = "tcp://127.0.0.1:5550"
    """Address of the head, the learner process."""
    bind: str = "tcp://127.0.0.1:5560"
    """Where actors and learner reach this server; port 0 takes a free one."""
    advertise: str = ""
    """Where others reach this server if that is not where it listens, such as tcp://NAME:PORT with
    the name of a container or a service. tcp://:PORT: under this host's own name."""
    storage: Path | None = None
    """File that keeps the experience and survives this process; none: memory. In a run with several
    replay servers each adds its number to the name, so that all can be told the same."""
    keys: Path | None = None
    """The run's key directory. None: what ZAPEX_KEYS or ZAPEX_KEY
    says, or no keys."""
    insecure: bool = False
    """Allow an address that other hosts can reach, without keys; and a --metrics-host without a
    token."""
    number: int = -1
    """Takes over at once from the server of this host that had it and died; −1: any number, and
    refused until one that died is missed."""
    take_over: bool = False
    """This host never has two replay servers, as a container: take over at once from whichever was
    here and died, and its number."""
    join_timeout: float = JOIN_TIMEOUT_S
    """Seconds to wait to be taken in before giving up."""
    stop_at_eof: bool = False
    """Stop when standard input ends: with the ssh connection, or the process, that holds it."""
    metrics_port: int | None = None
    """Port for Prometheus to scrape this process at; 0 takes a free one, none: it cannot."""
    metrics_host: str = "127.0.0.1"
    """Address of the interface it can be scraped at."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages to print."""
    debug: bool = False
    """Print a traceback with an error."""


def main() -> int:
    flags = tyro.cli(Flags, prog="python -m replay_server")
    return run_main(lambda: _run(flags), debug=flags.debug)


def _run(flags: Flags) -> None:
    from replay_server.server import ReplayOptions, run_replay_server

    if flags.take_over and flags.number >= 0:
        raise ConfigError("--take-over takes over the number, too: drop --number")
    security = open_security(flags.keys, insecure=flags.insecure)
    configure_logging(flags.log_level)
    announce(security)
    stop = threading.Event()
    stop_on_signals(stop)
    if flags.stop_at_eof:
        stop_at_end_of_input(stop.set)
    options = ReplayOptions(
        flags.connect,
        flags.bind,
        flags.storage,
        number=flags.number,
        metrics=MetricsOptions(flags.metrics_port, flags.metrics_host),
        join_timeout_s=flags.join_timeout,
        advertise=_with_host(flags.advertise),
        alone=flags.take_over,
    )
    with SecureContext(security) as context:
        run_replay_server(options, context, stop, lambda _: None)


def _with_host(address: str) -> str:
    port = address.removeprefix("tcp://:")
    return address if port == address else f"tcp://{socket.gethostname()}:{port}"


if __name__ == "__main__":
    sys.exit(main())
