"""The page in a process of its own beside a launch: what is drawn costs the launcher nothing."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from common.errors import AddressInUse, ZapexError
from common.process import stop_with_parent
from deploy.dashboard.options import Dashboard, check


@contextlib.contextmanager
def page_beside(
    runs_dir: Path | None, say: Callable[[str], None], keys: Path | None = None
) -> Iterator[None]:
    """The page in a process of its own while the body runs; None: no page. `say` gets the line
    with its address, or with what is wrong. `keys`: with which heads are asked."""
    if runs_dir is None:
        yield
        return
    options = Dashboard(runs_dir=runs_dir, keys=keys)
    check(options)
    context = multiprocessing.get_context("spawn")
    heard, told = context.Pipe(duplex=False)
    process = context.Process(target=_beside, args=(options, told), name="dashboard", daemon=True)
    process.start()
    told.close()

    def tell() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                say(heard.recv())

    threading.Thread(target=tell, name="dashboard-says", daemon=True).start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _beside(options: Dashboard, told: Connection) -> None:
    # Ctrl-C is for the launch, which ends this process when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Training comes first.
    os.nice(10)
    from deploy.dashboard.server import serve

    parent = multiprocessing.parent_process()
    stop = threading.Event()
    if parent is not None:
        stop_with_parent(parent.sentinel, stop)
    try:
        try:
            serve(options, told.send, stop)
        except AddressInUse:
            serve(replace(options, port=0), told.send, stop)
    except ZapexError as error:
        told.send(f"no dashboard: {error}")
