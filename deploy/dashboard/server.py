"""Serves the page until it is told to stop."""

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse

from common.errors import AddressInUse, ConfigError
from common.process import INTERRUPTED, handling_signals
from common.security import open_security
from deploy.dashboard.guard import Guard
from deploy.dashboard.observatory import Observatory
from deploy.dashboard.options import Dashboard, is_loopback, token_for

CLOSE_TIMEOUT_S = 1
"""How long open connections may take to end."""


class _Server(uvicorn.Server):
    """Ends when `should_exit` is set; signals are the caller's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    options: Dashboard,
    say: Callable[[str], None] = print,
    stop: threading.Event | None = None,
) -> int:
    """Serve the page until SIGINT or SIGTERM; returns the exit code.

    Args:
        say: gets the line with the address once the page can be opened.
        stop: ends it instead of the signals.

    Raises:
        AddressInUse: the port is taken.
        ConfigError: there is no such interface, or no such keys.
    """
    security = open_security(options.keys)
    listener = listen(options.host, options.port)
    port = listener.getsockname()[1]
    token = token_for(options)
    observatory = Observatory(options.runs_dir, security)
    try:
        # Read before anybody looks: the first page need not wait.
        observatory.runs()
        server = _Server(_config(observatory, options.host, port, token))
        server.config.load()

        def end() -> None:
            server.should_exit = True

        with handling_signals(end) if stop is None else _stopped_by(stop, end):
            say(f"dashboard of {options.runs_dir} at {address(options.host, port, token)}")
            for note in observatory.notes:
                say(note)
            server.run(sockets=[listener])
    finally:
        observatory.close()
        listener.close()
    return INTERRUPTED


def listen(host: str, port: int) -> socket.socket:
    """A socket there. Raises AddressInUse or ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"port {port} of {host} is in use by another process: choose another --port "
                "(0 takes a free one)"
            ) from error
        raise ConfigError(
            f"cannot serve at {host}:{port} ({error.strerror}): choose another --host or --port"
        ) from error
    return listener


def address(host: str, port: int, token: str | None) -> str:
    """For a browser."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def _config(observatory: Observatory, host: str, port: int, token: str | None) -> uvicorn.Config:
    from deploy.dashboard.page import add_page

    loopback = is_loopback(host)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/video/{run}")
    def video(run: str) -> Response:
        path = observatory.video(run)
        return Response(status_code=404) if path is None else FileResponse(path)

    add_page(app, observatory, compress=not loopback)
    return uvicorn.Config(
        Guard(app, token, loopback=loopback, port=port),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
    )


@contextlib.contextmanager
def _stopped_by(stop: threading.Event, end: Callable[[], None]) -> Iterator[None]:
    def wait() -> None:
        stop.wait()
        end()

    threading.Thread(target=wait, name="dashboard-stop", daemon=True).start()
    yield
