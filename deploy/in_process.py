"""A run whose roles are threads of one process, joined by inproc:// sockets.

The same code as in separate processes, without the processes: a debugger stops all of it at once.
"""

import contextlib
import threading
from pathlib import Path

import zmq

from common.config import Config
from common.process import configure_logging
from deploy.live_view import LiveView
from deploy.status_client import StatusClient
from deploy.topology import RoleSpec, follower_roles, run_role

POLL_S = 0.1


def run_in_process(
    config: Config,
    run_dir: Path,
    *,
    resume: bool,
    started_s: float,
    log_level: str,
    stop: threading.Event,
    view: LiveView,
) -> None:
    """Run until the learner ends or `stop` is set. Raises what a role raised."""
    configure_logging(log_level, run_dir / "logs" / "launcher.log", view.say)
    failures: list[BaseException] = []
    head_ready = threading.Event()

    def start(spec: RoleSpec) -> threading.Thread:
        def body() -> None:
            try:
                run_role(spec, context, stop, on_ready)
            except BaseException as error:
                failures.append(error)
                stop.set()
            finally:
                if spec.role == "learner":
                    head_ready.set()

        def on_ready(address: str) -> None:
            if spec.role == "learner":
                head_ready.set()

        thread = threading.Thread(target=body, name=spec.name)
        thread.start()
        return thread

    # A name of its own for each run: two of them can share a context.
    head = f"inproc://head-{id(stop)}"
    with zmq.Context() as context:
        learner = start(
            RoleSpec(
                "learner", "learner", config, run_dir, head, resume=resume, started_s=started_s
            )
        )
        head_ready.wait()
        threads = [learner]
        if not failures:
            threads += map(start, follower_roles(config, run_dir, head, f"{head}-replay"))
        with contextlib.closing(StatusClient(head, context)) as status:
            while learner.is_alive():
                learner.join(POLL_S)
                view.update(status.latest())
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
