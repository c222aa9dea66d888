"""`python -m deploy dashboard RUNS_DIR`: see all runs of a directory, live and afterwards."""

import tyro

from deploy.dashboard.options import Dashboard, check


def dashboard(argv: list[str]) -> int:
    """Serves until Ctrl-C; returns the exit code."""
    options = tyro.cli(Dashboard, args=argv, prog="python -m deploy dashboard")
    check(options)

    from deploy.dashboard.server import serve

    return serve(options)
