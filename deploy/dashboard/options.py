"""What the dashboard is told, and whether it can be served so."""

import importlib.util
import secrets
from dataclasses import dataclass
from pathlib import Path

import tyro

from common import transport
from common.errors import ConfigError, RunDirectoryError


@dataclass(kw_only=True)
class Dashboard:
    """Serve a page with the runs of a directory: curves, who waits for whom, exploration, replay,
    video and configurations; live while a run goes on, and afterwards. Ctrl-C ends it."""

    runs_dir: tyro.conf.Positional[Path] = Path("runs")
    """Directory whose subdirectories are runs."""
    port: int = 8080
    """Where the page is served; 0 takes a free port."""
    host: str = "127.0.0.1"
    """Address of the interface it is served at. Any but this host's own wants a token of those
    who look."""
    token: str | None = None
    """That visitors must give; None: one is made and printed where one is needed."""
    keys: Path | None = None
    """A run's key directory or a client's key file, to ask heads that want one. None: what
    ZAPEX_KEYS or ZAPEX_KEY says, or no keys."""
    insecure: bool = False
    """Serve other hosts without a token."""
    debug: bool = False
    """Print a traceback with an error."""


def check(options: Dashboard) -> None:
    """Raises ConfigError or RunDirectoryError when this cannot be served."""
    if importlib.util.find_spec("nicegui") is None:
        raise ConfigError("the dashboard needs the package nicegui: pip install 'zapex[dashboard]'")
    if not options.runs_dir.is_dir():
        raise RunDirectoryError(
            f"{options.runs_dir} is no directory: name the one that holds runs, such as runs/"
        )
    if not 0 <= options.port < 1 << 16:
        raise ConfigError(f"--port {options.port}: must be between 0 and 65535")
    if options.token is not None and not (options.token.isascii() and options.token.isalnum()):
        raise ConfigError("--token: letters and digits of ASCII, at least one")


def token_for(options: Dashboard) -> str | None:
    """That visitors must give, if they must."""
    if options.token is not None:
        return options.token
    if options.insecure or is_loopback(options.host):
        return None
    return secrets.token_hex(16)


def is_loopback(host: str) -> bool:
    """Whether only this host reaches the interface."""
    return transport.is_local(f"tcp://{f'[{host}]' if ':' in host else host}:0")
